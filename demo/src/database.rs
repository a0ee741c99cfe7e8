//! The demo's own database: the extension, the application's schema and the real content.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pgvector::Vector;
use postgres::{Client, NoTls};

use crate::progress::Bar;
use crate::texts::Speech;

/// Puts the extension and the application's schema into an empty database.
pub fn open(url: &str) -> Result<Client> {
    let mut client = Client::connect(url, NoTls).context("cannot connect to the database")?;
    let used = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'app')";
    ensure!(!client.query_one(used, &[])?.get::<_, bool>(0), "the database is not empty: schema app exists");
    client.batch_execute("CREATE EXTENSION pg_finetune CASCADE").context("cannot create the extension")?;
    client.batch_execute(include_str!("../schema.sql"))?;
    Ok(client)
}

fn podcast(year: i32) -> &'static str {
    match year {
        ..=1800 => "The First Addresses, 1790 to 1800",
        1801..=1933 => "Between the Wars, 1913 to 1933",
        1934..=1945 => "Depression and War, 1934 to 1945",
        1946..=1968 => "The Cold War, 1946 to 1968",
        1969..=1988 => "Oil and Inflation, 1969 to 1988",
        1989.. => "After the Wall, 1989 and later",
    }
}

/// Speeches as episodes, passages as chunks with ids from 1 in the order of `vectors`.
pub fn load(client: &mut Client, speeches: &[Speech], vectors: &[Vec<f32>]) -> Result<()> {
    let mut transaction = client.transaction()?;
    let mut podcasts = BTreeMap::new();
    let mut next = 0;
    let bar = Bar::new("loading", vectors.len());
    for speech in speeches {
        let title = podcast(speech.year);
        if !podcasts.contains_key(title) {
            let row = transaction.query_one("INSERT INTO podcast (title) VALUES ($1) RETURNING id", &[&title])?;
            podcasts.insert(title, row.get::<_, i64>(0));
        }
        let episode: i64 = transaction
            .query_one(
                "INSERT INTO episode (podcast_id, title, year) VALUES ($1, $2, $3) RETURNING id",
                &[&podcasts[title], &format!("State of the Union {}, {}", speech.year, speech.speaker), &speech.year],
            )?
            .get(0);
        let end = next + speech.passages.len();
        let ids: Vec<i64> = (next..end).map(chunk_id).collect();
        let embeddings: Vec<Vector> = vectors[next..end].iter().map(|vector| Vector::from(vector.clone())).collect();
        transaction.execute(
            "INSERT INTO transcript_chunk (id, episode_id, speaker_name, content, embedding)
             SELECT id, $1, $2, content, embedding FROM unnest($3::bigint[], $4::text[], $5::vector[]) AS t(id, content, embedding)",
            &[&episode, &speech.speaker, &ids, &speech.passages, &embeddings],
        )?;
        bar.add(speech.passages.len());
        next = end;
    }
    transaction.commit()?;
    bar.done();
    client.batch_execute("ANALYZE podcast, episode, transcript_chunk")?;
    Ok(())
}

/// Chunk id of a passage and back.
pub fn chunk_id(passage: usize) -> i64 {
    passage as i64 + 1
}

pub fn passage(chunk_id: i64) -> usize {
    chunk_id as usize - 1
}
