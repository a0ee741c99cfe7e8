//! The application at work: it shows a list to a listener, and later writes down what the listener did with it.
//! It uses plain INSERT and UPDATE; capturing is the business of pg_finetune's triggers.

use std::collections::HashSet;

use anyhow::Result;
use postgres::{Client, Statement};
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::database::{chunk_id, passage};
use crate::dice::Dice;
use crate::features::Catalogue;
use crate::listeners::{Action, Listener, uuid};
use crate::progress::Bar;

/// The best passages for a listener under the listener's variant; none for who has saved nothing yet.
const RANK: &str = "
    WITH profile AS MATERIALIZED (SELECT user_query($1::text) AS query)
    SELECT c.id FROM transcript_chunk c
    WHERE (SELECT query FROM profile) IS NOT NULL
      AND NOT EXISTS (SELECT FROM signal s WHERE s.user_id = $1::text::uuid AND s.chunk_id = c.id)
    ORDER BY c.embedding <=> (SELECT query FROM profile)
    LIMIT $2";

const SHOW: &str = "
    INSERT INTO signal (user_id, chunk_id, session_id, position, surface, relevance_score, created_at)
    SELECT $1::text::uuid, c.id, $2::text::uuid, shown.position, $3, relevance_score($1, c.embedding),
           now() - $4 * interval '1 day'
    FROM unnest($5::bigint[]) WITH ORDINALITY AS shown(chunk_id, position)
    JOIN transcript_chunk c ON c.id = shown.chunk_id";

const ACT: &str = "
    UPDATE signal s
    SET user_action = done.action, actioned_at = s.created_at + done.seconds * interval '1 second'
    FROM unnest($2::integer[], $3::text[], $4::double precision[]) AS done(position, action, seconds)
    WHERE s.session_id = $1::text::uuid AND s.position = done.position";

/// One visit of each listener to one screen.
pub struct Visit {
    pub surface: &'static str,
    pub ranked: usize,
    pub random: usize,
    pub days_ago: f64,
}

pub struct Feed<'a> {
    client: &'a mut Client,
    catalogue: &'a Catalogue,
    dice: Dice,
    seen: HashSet<(String, i64)>,
    rank: Statement,
    show: Statement,
    act: Statement,
}

impl<'a> Feed<'a> {
    pub fn open(client: &'a mut Client, catalogue: &'a Catalogue, dice: Dice) -> Result<Self> {
        // goes on until enough unseen ones are found
        client.batch_execute("SET hnsw.iterative_scan = strict_order")?;
        let (rank, show, act) = (client.prepare(RANK)?, client.prepare(SHOW)?, client.prepare(ACT)?);
        Ok(Self { client, catalogue, dice, seen: HashSet::new(), rank, show, act })
    }

    pub fn client(&mut self) -> &mut Client {
        self.client
    }

    pub fn sign_up(&mut self, listeners: &[Listener], days_ago: f64) -> Result<()> {
        let ids: Vec<&str> = listeners.iter().map(|listener| listener.id.as_str()).collect();
        self.client.execute(
            "INSERT INTO listener (id, joined_at) SELECT id::uuid, now() - $2 * interval '1 day' FROM unnest($1::text[]) AS id",
            &[&ids, &days_ago],
        )?;
        Ok(())
    }

    /// Shows each listener a list and writes down what happens.
    pub fn visit(&mut self, listeners: &[Listener], visit: &Visit, bar: &Bar) -> Result<()> {
        for listener in listeners {
            let list = self.list(listener, visit)?;
            let session = uuid(&mut self.dice);
            // people come at different hours of the day
            let days_ago = visit.days_ago * self.dice.random_range(0.95..1.0);
            self.client.execute(&self.show, &[&listener.id, &session, &visit.surface, &days_ago, &list])?;
            self.act(listener, &session, &list)?;
            bar.add(1);
        }
        Ok(())
    }

    /// Ranked passages, filled up with random ones, in random order if there are both.
    fn list(&mut self, listener: &Listener, visit: &Visit) -> Result<Vec<i64>> {
        let mut list: Vec<i64> = Vec::new();
        if visit.ranked > 0 {
            let rows = self.client.query(&self.rank, &[&listener.id, &(visit.ranked as i64)])?;
            list.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        }
        let wanted = visit.ranked + visit.random;
        let mixed = list.len() < wanted;
        self.seen.extend(list.iter().map(|&chunk| (listener.id.clone(), chunk)));
        while list.len() < wanted {
            let chunk = chunk_id(self.dice.random_range(0..self.catalogue.passages.len()));
            if self.seen.insert((listener.id.clone(), chunk)) {
                list.push(chunk);
            }
        }
        if mixed {
            list.shuffle(&mut self.dice);
        }
        Ok(list)
    }

    fn act(&mut self, listener: &Listener, session: &str, list: &[i64]) -> Result<()> {
        let mut clock = 0.0;
        let (mut positions, mut actions, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for (position, &chunk) in (1..).zip(list) {
            let features = &self.catalogue.passages[passage(chunk)];
            if let Some(action) = listener.decide(features, position, &mut self.dice) {
                // what is kept was heard to its end
                clock += if action == Action::Skipped {
                    self.dice.random_range(2.0..10.0)
                } else {
                    self.dice.random_range(20.0..40.0)
                };
                positions.push(position as i32);
                actions.push(action.name());
                seconds.push(clock);
            }
        }
        self.client.execute(&self.act, &[&session, &positions, &actions, &seconds])?;
        Ok(())
    }
}
