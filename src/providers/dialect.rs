//! The OpenAI-like hosts are data, not code.

use super::knobs::{Kind, Knob};
use super::protocol::{Caps, JobView, Server, Training, VALIDATION_SHARE};
use super::state::Serving;
use super::wire::Auth;

pub const NAMES: [&str; 4] = ["openai", "azure", "mantle", "trainer"];

const MB: u64 = 1 << 20;

#[derive(Debug)]
pub struct Dialect {
    pub name: &'static str,
    pub auth: Auth,
    /// Jobs carry pgft_run, and lists can be filtered by it.
    pub metadata: bool,
    /// Longest suffix; 0 where none is taken.
    pub suffix: usize,
    /// Files begin with the three bytes that say UTF-8.
    pub bom: bool,
    pub max_file: u64,
    pub min_rows: u64,
    pub max_rows: u64,
    pub methods: &'static [Training],
    /// Takes a validation file.
    pub validation: bool,
    /// Has POST /uploads for files that are sent in parts.
    pub uploads: bool,
    /// Honours Idempotency-Key: the same job is created once even if it is asked for twice.
    pub idempotency: bool,
    pub checkpoints: bool,
    pub serving: Serving,
}

const CHAT: &[Training] = &[Training::Sft, Training::Dpo];

const OPENAI: Dialect = Dialect {
    name: "openai",
    auth: Auth::Bearer,
    metadata: true,
    suffix: 64,
    bom: false,
    max_file: 8192 * MB,
    min_rows: 10,
    max_rows: u64::MAX,
    methods: CHAT,
    validation: true,
    uploads: true,
    idempotency: false,
    checkpoints: true,
    serving: Serving::Ready,
};

static DIALECTS: [Dialect; 4] = [
    OPENAI,
    Dialect {
        name: "azure",
        auth: Auth::Header("api-key"),
        metadata: false,
        suffix: 40,
        bom: true,
        max_file: 512 * MB,
        uploads: false,
        serving: Serving::NeedsDeploy,
        ..OPENAI
    },
    Dialect {
        name: "mantle",
        metadata: false,
        suffix: 0,
        max_file: 512 * MB,
        min_rows: 100,
        max_rows: 20_000,
        methods: &[Training::Sft],
        validation: false,
        uploads: false,
        ..OPENAI
    },
    Dialect {
        name: "trainer",
        min_rows: 2,
        // Says itself which rows it cannot use: other local servers speak the dialect, too.
        methods: &[Training::Contrastive, Training::Sft, Training::Dpo],
        uploads: false,
        idempotency: true,
        ..OPENAI
    },
];

/// The option `dialect`, or what the host's name says; a host on this machine is a trainer of one's own.
pub fn of(server: &Server) -> &'static Dialect {
    let host = server.base_url.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
    let azure = host.ends_with(".openai.azure.com") || host.ends_with(".services.ai.azure.com");
    let local = ["127.", "localhost", "[::1]"].iter().any(|start| host.starts_with(start));
    let guess = match () {
        () if azure => "azure",
        () if host.starts_with("bedrock-mantle.") => "mantle",
        () if local => "trainer",
        () => "openai",
    };
    let wanted = server.option("dialect").unwrap_or(guess);
    DIALECTS.iter().find(|dialect| dialect.name == wanted).unwrap_or(&DIALECTS[0])
}

impl Dialect {
    pub fn caps(&self) -> Caps {
        Caps {
            max_file: self.max_file,
            min_rows: self.min_rows,
            max_rows: self.max_rows,
            methods: self.methods,
            metadata: self.metadata,
            client_job_id: false,
            cancel: true,
            events: true,
            checkpoints: self.checkpoints,
            price_api: false,
            max_validation_rows: if self.validation { u64::MAX } else { 0 },
            validation_share: VALIDATION_SHARE,
        }
    }

    pub fn knobs(&self, job: &JobView) -> Vec<Knob> {
        let mut knobs = STANDARD.to_vec();
        match (self.name, job.method) {
            ("trainer", _) => knobs.extend(TRAINER),
            ("azure", _) => knobs.push(TRAINING_TYPE),
            _ => {}
        }
        if job.method == Training::Dpo {
            knobs.push(BETA);
        }
        knobs
    }
}

const STANDARD: [Knob; 3] = [
    Knob::auto("n_epochs", Kind::Int(1, 50)),
    Knob::auto("batch_size", Kind::Int(1, 256)),
    Knob::auto("learning_rate_multiplier", Kind::Number(1e-6, 1000.0)),
];
const BETA: Knob = Knob::auto("beta", Kind::Number(1e-6, 2.0));
/// Stands beside the method in the body, not among the hyperparameters.
pub const TRAINING_TYPE: Knob =
    Knob::new("trainingType", Kind::Word(&["standard", "globalstandard", "developerTier", "datazonestandard"]));
/// Travel as metadata pgft_...: fields that any OpenAI client can send.
pub const TRAINER: [Knob; 7] = [
    Knob::new("task", Kind::Word(&["embedding", "rerank"])),
    Knob::new("loss", Kind::Word(&["auto", "softmax", "mnrl", "cached_mnrl", "triplet", "cosent", "contrastive"])),
    Knob::new("temperature", Kind::Number(1e-6, 1.0)),
    Knob::new("max_seq_length", Kind::Int(8, 8192)),
    Knob::new("warmup", Kind::Number(0.0, 1.0)),
    Knob::new("matryoshka", Kind::Text(60)),
    Knob::new("lora_r", Kind::Int(1, 256)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(url: &str, option: Option<&str>) -> &'static str {
        let mut options = vec![("base_url".to_owned(), url.to_owned())];
        options.extend(option.map(|value| ("dialect".to_owned(), value.to_owned())));
        of(&Server::new(options)).name
    }

    #[test]
    fn hosts_are_known_by_name_and_the_option_wins() {
        assert_eq!(dialect("https://api.openai.com/v1", None), "openai");
        assert_eq!(dialect("https://me.openai.azure.com/openai/v1", None), "azure");
        assert_eq!(dialect("https://bedrock-mantle.us-west-2.api.aws/v1", None), "mantle");
        assert_eq!(dialect("http://127.0.0.1:8484/v1", None), "trainer");
        assert_eq!(dialect("http://127.0.0.1:8484/v1", Some("openai")), "openai");
        assert_eq!(dialect("https://gpu.example.com/v1", Some("trainer")), "trainer");
        assert_eq!(dialect("https://evil.com/.openai.azure.com/", None), "openai");
        assert!(DIALECTS.iter().map(|dialect| dialect.name).eq(NAMES));
    }
}
