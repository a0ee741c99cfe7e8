//! Charts as SVG, drawn by plotters in placeholder colours that a style sheet then gives a meaning, light and dark.

use super::Error;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Height and width in units of the view box; the page scales them.
const HEIGHT: u32 = 280;
pub const NARROW: u32 = 520;
pub const WIDE: u32 = 1080;

/// What a colour means. plotters writes `#0000nn`; the page knows variables of these names.
#[derive(Clone, Copy)]
pub enum Ink {
    Text,
    Grid,
    Rule,
    Base,
    New,
    Band,
}

const INKS: [(Ink, &str); 6] = [
    (Ink::Text, "var(--muted)"),
    (Ink::Grid, "var(--grid)"),
    (Ink::Rule, "var(--rule)"),
    (Ink::Base, "var(--base)"),
    (Ink::New, "var(--new)"),
    (Ink::Band, "var(--band)"),
];

impl Ink {
    fn color(self) -> RGBColor {
        RGBColor(0, 0, self as u8 + 1)
    }
}

pub struct Line {
    pub ink: Ink,
    pub points: Vec<(f64, f64)>,
    pub dots: bool,
}

/// Lines over two axes, with a band and a straight rule where there are any.
pub struct Plot<'a> {
    pub width: u32,
    pub x: (f64, f64),
    pub y: (f64, f64),
    pub x_label: &'a dyn Fn(f64) -> String,
    pub y_label: &'a dyn Fn(f64) -> String,
    pub x_ticks: usize,
    pub lines: Vec<Line>,
    /// x, lower and upper end.
    pub band: Vec<(f64, f64, f64)>,
    pub rule: Option<[(f64, f64); 2]>,
}

/// Groups of bars, one bar per series; heights from 0.
pub struct Bars<'a> {
    pub groups: &'a [&'a str],
    pub series: Vec<(Ink, Vec<f64>)>,
    pub top: f64,
}

pub fn plot(plot: &Plot) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (plot.width, HEIGHT)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(10)
            .margin_right(22)
            .x_label_area_size(34)
            .y_label_area_size(62)
            .build_cartesian_2d(plot.x.0..plot.x.1, plot.y.0..plot.y.1)
            .map_err(refused)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(Ink::Grid.color())
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::Rule.color())
            .label_style(("sans-serif", 14).into_font().color(&Ink::Text.color()))
            .x_labels(plot.x_ticks)
            .y_labels(5)
            .x_label_formatter(&|x| (plot.x_label)(*x))
            .y_label_formatter(&|y| (plot.y_label)(*y))
            .draw()
            .map_err(refused)?;
        if plot.band.len() > 1 {
            let back = plot.band.iter().rev().map(|&(x, _, high)| (x, high));
            let outline: Vec<_> = plot.band.iter().map(|&(x, low, _)| (x, low)).chain(back).collect();
            chart.draw_series([Polygon::new(outline, Ink::Band.color())]).map_err(refused)?;
        }
        if let Some(rule) = plot.rule {
            chart.draw_series([PathElement::new(rule.to_vec(), Ink::Rule.color())]).map_err(refused)?;
        }
        for line in &plot.lines {
            let style = line.ink.color().stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style)).map_err(refused)?;
            if line.dots || line.points.len() == 1 {
                let dots = line.points.iter().map(|&point| Circle::new(point, 3, line.ink.color().filled()));
                chart.draw_series(dots).map_err(refused)?;
            }
        }
        area.present().map_err(refused)?;
    }
    Ok(inked(svg))
}

pub fn bars(bars: &Bars, label: &dyn Fn(f64) -> String) -> Result<String, Error> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (NARROW, HEIGHT)).into_drawing_area();
        let groups = bars.groups.len() as f64;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(18)
            .margin_right(12)
            .x_label_area_size(34)
            .y_label_area_size(54)
            .build_cartesian_2d(0.0..groups, 0.0..bars.top)
            .map_err(refused)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .bold_line_style(Ink::Grid.color())
            .light_line_style(TRANSPARENT)
            .axis_style(Ink::Rule.color())
            .label_style(("sans-serif", 14).into_font().color(&Ink::Text.color()))
            .y_labels(5)
            .y_label_formatter(&|y| label(*y))
            .draw()
            .map_err(refused)?;
        let width = 0.72 / bars.series.len().max(1) as f64;
        for (place, (ink, heights)) in bars.series.iter().enumerate() {
            let boxes = heights.iter().enumerate().map(|(group, &height)| {
                let left = group as f64 + 0.14 + place as f64 * width;
                Rectangle::new([(left + 0.02, 0.0), (left + width - 0.02, height)], ink.color().filled())
            });
            chart.draw_series(boxes).map_err(refused)?;
            let (font, middle) = (("sans-serif", 12).into_font(), Pos::new(HPos::Center, VPos::Bottom));
            let style = font.color(&Ink::Text.color()).pos(middle);
            let tips = heights.iter().enumerate().map(|(group, &height)| {
                let at = (group as f64 + 0.14 + (place as f64 + 0.5) * width, height + bars.top * 0.012);
                Text::new(label(height), at, style.clone())
            });
            chart.draw_series(tips).map_err(refused)?;
        }
        let names = ("sans-serif", 14).into_font().color(&Ink::Text.color());
        let middle = Pos::new(HPos::Center, VPos::Top);
        let names = names.pos(middle);
        let labels = bars.groups.iter().enumerate().map(|(group, name)| {
            let (x, y) = chart.backend_coord(&(group as f64 + 0.5, 0.0));
            Text::new((*name).to_string(), (x, y + 10), names.clone())
        });
        for label in labels.collect::<Vec<_>>() {
            area.draw(&label).map_err(refused)?;
        }
        area.present().map_err(refused)?;
    }
    Ok(inked(svg))
}

/// The elements inside plotters' own frame, with our colours.
fn inked(svg: String) -> String {
    let inside = svg.find('>').map_or("", |end| &svg[end + 1..]);
    let inside = inside.trim_end().trim_end_matches("</svg>").to_string();
    INKS.iter()
        .fold(inside, |svg, &(ink, name)| svg.replace(&format!("\"#{:06X}\"", ink as u32 + 1), &format!("\"{name}\"")))
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Chart(error.to_string())
}

/// A range that holds all these numbers with some air; never empty.
pub fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), n| (l.min(n), h.max(n)));
    let air = ((high - low) * 0.08).max(1e-3);
    if low <= high {
        (low - air, high + air)
    } else {
        (0.0, 1.0)
    }
}

pub fn framed(width: u32, id: &str, title: &str, description: &str, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\
         <title id=\"{id}-title\">{title}</title><desc id=\"{id}-desc\">{description}</desc>{inside}</svg>"
    )
}
