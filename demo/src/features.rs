//! What a simulated listener can like or dislike in a passage. Read off the text; only the leanings use vectors.

use rand::RngExt;

use crate::dice;
use crate::texts::Speech;

/// Topics by the beginnings of their words.
const TOPICS: [(&str, &[&str]); 14] = [
    (
        "war",
        &[
            "war", "army", "armies", "navy", "naval", "troops", "soldier", "military", "enemy", "enemies", "battle",
            "weapon", "missile",
        ],
    ),
    (
        "diplomacy",
        &[
            "treaty",
            "treaties",
            "peace",
            "alliance",
            "allies",
            "nations",
            "foreign",
            "negotiat",
            "diplomat",
            "sovereign",
        ],
    ),
    (
        "budget",
        &[
            "budget",
            "debt",
            "deficit",
            "tax",
            "revenue",
            "treasury",
            "expenditure",
            "appropriation",
            "surplus",
            "billion",
        ],
    ),
    ("work", &["job", "worker", "wage", "labor", "employ", "unemploy", "union", "hire", "factory", "factories"]),
    (
        "business",
        &[
            "business", "trade", "market", "industr", "export", "tariff", "commerce", "bank", "credit", "invest",
            "compan",
        ],
    ),
    ("farming", &["farm", "agricultur", "crop", "land", "soil", "rural", "grain", "cattle"]),
    ("schools", &["school", "education", "teach", "student", "college", "universit", "learn", "classroom"]),
    ("health", &["health", "medic", "hospital", "doctor", "disease", "cancer", "patient", "insurance"]),
    (
        "energy",
        &["energy", "oil", "coal", "fuel", "water", "environment", "pollution", "climate", "conservation", "forest"],
    ),
    (
        "roads",
        &["road", "highway", "railroad", "railway", "transport", "ship", "canal", "airport", "bridge", "transit"],
    ),
    ("crime", &["crime", "criminal", "police", "drug", "court", "judge", "violence", "gun", "prison", "terror"]),
    ("rights", &["right", "civil", "vote", "women", "race", "equal", "freedom", "liberty", "discriminat", "justice"]),
    ("science", &["science", "scientif", "research", "space", "technolog", "atomic", "nuclear", "computer", "invent"]),
    ("family", &["famil", "child", "parent", "mother", "father", "elderly", "senior", "home", "neighbor", "kids"]),
];
pub const TOPIC_COUNT: usize = TOPICS.len();
pub const TONE_COUNT: usize = 4;
pub const LEANING_COUNT: usize = 8;

pub struct Features {
    /// 0 = topic absent, towards 1 = full of it.
    pub topics: [f64; TOPIC_COUNT],
    /// Standardised over all passages: figures, long sentences, "I", faith.
    pub tones: [f64; TONE_COUNT],
    /// Standardised: how much nearer to one passage than to another, for each pair of passages drawn at random.
    pub leanings: [f64; LEANING_COUNT],
    pub speaker: usize,
}

pub struct Catalogue {
    pub passages: Vec<Features>,
    pub speakers: usize,
}

/// Features of all passages, in the order of the speeches.
pub fn describe(speeches: &[Speech], vectors: &[Vec<f32>], seed: u64) -> Catalogue {
    let mut speakers: Vec<&str> = speeches.iter().map(|speech| speech.speaker.as_str()).collect();
    speakers.sort_unstable();
    speakers.dedup();
    let leanings = leanings(vectors, seed);
    let mut passages = Vec::with_capacity(vectors.len());
    for speech in speeches {
        let speaker = speakers.binary_search(&speech.speaker.as_str()).expect("collected above");
        for text in &speech.passages {
            let leanings = leanings[passages.len()];
            passages.push(Features { topics: topics(text), tones: tones(text), leanings, speaker });
        }
    }
    standardise(&mut passages, |features| &mut features.tones);
    standardise(&mut passages, |features| &mut features.leanings);
    Catalogue { passages, speakers: speakers.len() }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn topics(text: &str) -> [f64; TOPIC_COUNT] {
    let mut hits = [0.0; TOPIC_COUNT];
    for word in words(text) {
        for (hits, (_, stems)) in hits.iter_mut().zip(TOPICS) {
            *hits += f64::from(u8::from(stems.iter().any(|stem| word.starts_with(stem))));
        }
    }
    hits.map(|hits| 1.0 - f64::exp(-hits / 2.0))
}

fn tones(text: &str) -> [f64; TONE_COUNT] {
    const FAITH: [&str; 8] = ["god", "almighty", "providence", "bless", "pray", "faith", "divine", "heaven"];
    let words: Vec<String> = words(text).collect();
    let share = |wanted: &dyn Fn(&str) -> bool| words.iter().filter(|w| wanted(w)).count() as f64 / words.len() as f64;
    let sentences = text.matches(['.', '!', '?']).count().max(1);
    [
        share(&|word| word.starts_with(|c: char| c.is_ascii_digit()) || word.ends_with("illion") || word == "percent"),
        words.len() as f64 / sentences as f64,
        share(&|word| matches!(word, "i" | "my" | "me")),
        share(&|word| FAITH.iter().any(|stem| word.starts_with(stem))),
    ]
}

fn leanings(vectors: &[Vec<f32>], seed: u64) -> Vec<[f64; LEANING_COUNT]> {
    let mut rng = dice::stream(seed, "leanings");
    let pairs: [_; LEANING_COUNT] =
        std::array::from_fn(|_| (rng.random_range(0..vectors.len()), rng.random_range(0..vectors.len())));
    let nearness = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    vectors
        .iter()
        .map(|v| pairs.map(|(for_, against)| nearness(v, &vectors[for_]) - nearness(v, &vectors[against])))
        .collect()
}

/// Mean 0 and standard deviation 1 in each column.
fn standardise<const N: usize>(passages: &mut [Features], columns: impl Fn(&mut Features) -> &mut [f64; N]) {
    let n = passages.len() as f64;
    for column in 0..N {
        let (mut sum, mut squares) = (0.0, 0.0);
        for features in passages.iter_mut() {
            let value = columns(features)[column];
            sum += value;
            squares += value * value;
        }
        let mean = sum / n;
        let deviation = (squares / n - mean * mean).max(1e-12).sqrt();
        for features in passages.iter_mut() {
            let value = &mut columns(features)[column];
            *value = (*value - mean) / deviation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speeches() -> Vec<Speech> {
        let say = |text: &str| text.repeat(3);
        let passages = vec![say("our army won the war. "), say("the school has 200 teachers. "), say("I thank God. ")];
        vec![Speech { year: 1946, speaker: "A".into(), passages }]
    }

    #[test]
    fn topics_are_read_off_the_words() {
        let vectors = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]];
        let catalogue = describe(&speeches(), &vectors, 1);
        let topic = |name| TOPICS.iter().position(|(topic, _)| *topic == name).unwrap();
        assert!(catalogue.passages[0].topics[topic("war")] > 0.9);
        assert_eq!(catalogue.passages[1].topics[topic("war")], 0.0);
        assert!(catalogue.passages[1].topics[topic("schools")] > 0.9);
        assert!(catalogue.passages[2].tones[3] > 1.0, "faith stands out");
    }

    #[test]
    fn tones_are_standardised() {
        let vectors = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]];
        let catalogue = describe(&speeches(), &vectors, 1);
        for tone in 0..TONE_COUNT {
            let sum: f64 = catalogue.passages.iter().map(|features| features.tones[tone]).sum();
            assert!(sum.abs() < 1e-9);
        }
    }
}
