//! Real vectors: all-MiniLM-L6-v2 (mean of the tokens, unit length), with candle on the CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use sha2::{Digest, Sha256};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::progress::Bar;

const DIMENSIONS: usize = 384;
const MAX_TOKENS: usize = 128;
const BATCH: usize = 16;
/// Two sentences with the similarity that the model's documentation gives for them.
const DOCUMENTED: ([&str; 2], f32) = (["The cat sits outside", "The dog plays in the garden"], 0.2838);

struct Embedder {
    tokenizer: Tokenizer,
    model: BertModel,
}

impl Embedder {
    /// Needs `tokenizer.json`, `config.json` and `model.safetensors` in the folder.
    fn load(folder: &Path) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).map_err(|e| anyhow!(e))?;
        let truncation = TruncationParams { max_length: MAX_TOKENS, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| anyhow!(e))?;
        tokenizer.with_padding(Some(PaddingParams::default()));
        let config: Config = serde_json::from_slice(&read(folder, "config.json")?)?;
        let weights =
            VarBuilder::from_buffered_safetensors(read(folder, "model.safetensors")?, DType::F32, &Device::Cpu)?;
        Ok(Self { tokenizer, model: BertModel::load(weights, &config)? })
    }

    /// Other weights, or an error in the steps above, would not give this number.
    fn check(&self) -> Result<()> {
        let vectors = self.embed(&DOCUMENTED.0)?;
        let similarity: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
        println!("  model checked: documented similarity {}, here {similarity:.4}", DOCUMENTED.1);
        ensure!((similarity - DOCUMENTED.1).abs() < 1e-3, "the model in this folder is not all-MiniLM-L6-v2");
        Ok(())
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let encodings = self.tokenizer.encode_batch(texts.to_vec(), true).map_err(|e| anyhow!(e))?;
        let rows = |part: fn(&tokenizers::Encoding) -> &[u32]| -> Result<Tensor> {
            let rows = encodings.iter().map(|e| Tensor::new(part(e), &Device::Cpu)).collect::<Result<Vec<_>, _>>()?;
            Ok(Tensor::stack(&rows, 0)?)
        };
        let ids = rows(|e| e.get_ids())?;
        let mask = rows(|e| e.get_attention_mask())?;
        let tokens = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        let mean = tokens.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?;
        let unit = mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)?;
        Ok(unit.to_vec2()?)
    }
}

fn read(folder: &Path, file: &str) -> Result<Vec<u8>> {
    let path = folder.join(file);
    fs::read(&path).with_context(|| format!("no model file \"{}\"", path.display()))
}

/// Vectors of all texts, from the cache if the same texts met the same model before.
pub fn embed_all(texts: &[&str], model: &Path, cache: &Path) -> Result<Vec<Vec<f32>>> {
    let file = cache_file(texts, model, cache)?;
    if let Some(vectors) = from_cache(&file, texts.len()) {
        println!("  {} embeddings taken from {}", vectors.len(), file.display());
        return Ok(vectors);
    }
    let embedder = Embedder::load(model)?;
    embedder.check()?;
    let vectors = in_parallel(&embedder, texts)?;
    let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(&file, bytes).with_context(|| format!("cannot write \"{}\"", file.display()))?;
    Ok(vectors)
}

/// One batch per core at a time: the model's small steps run on one core each.
fn in_parallel(embedder: &Embedder, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
    // texts of like length share a batch, so that little is padded
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| texts[i].len());
    let batches = Mutex::new(order.chunks(BATCH));
    let vectors = Mutex::new(vec![Vec::new(); texts.len()]);
    let bar = Bar::new("embedding", texts.len());
    let work = || -> Result<()> {
        while let Some(batch) = { batches.lock().expect("no holder panics").next() } {
            let chosen: Vec<&str> = batch.iter().map(|&i| texts[i]).collect();
            let embedded = embedder.embed(&chosen)?;
            let mut vectors = vectors.lock().expect("no holder panics");
            for (&i, vector) in batch.iter().zip(embedded) {
                ensure!(vector.len() == DIMENSIONS, "the model gives {} dimensions, wanted {DIMENSIONS}", vector.len());
                vectors[i] = vector;
            }
            bar.add(batch.len());
        }
        Ok(())
    };
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("workers return their errors"))
    })?;
    bar.done();
    Ok(vectors.into_inner().expect("all workers are gone"))
}

fn cache_file(texts: &[&str], model: &Path, cache: &Path) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(read(model, "model.safetensors")?);
    hash.update(read(model, "tokenizer.json")?);
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(cache).with_context(|| format!("cannot make folder \"{}\"", cache.display()))?;
    Ok(cache.join(format!("embeddings-{key}.f32")))
}

fn from_cache(file: &Path, rows: usize) -> Option<Vec<Vec<f32>>> {
    let bytes = fs::read(file).ok().filter(|bytes| bytes.len() == rows * DIMENSIONS * 4)?;
    let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Some(floats.chunks(DIMENSIONS).map(<[f32]>::to_vec).collect())
}
