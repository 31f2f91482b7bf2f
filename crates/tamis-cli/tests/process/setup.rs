//! A tiny model with a tokenizer of single letters, the same with holes, texts, and command lines that use them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};

/// Words of the tokenizer, as many as the model has rows.
const VOCAB: usize = 67;
const HOLES: &str =
    "name = \"holes\"\n[default]\nmethod = \"prune\"\nscore = \"magnitude\"\nsparsity = 0.5\n";
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }} {% endfor %}";

pub(crate) struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let setup = Self { folder: tempfile::tempdir().unwrap() };
        let dense = setup.path("dense");
        std::fs::create_dir(&dense).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("models/llama-gqa").join(name), dense.join(name)).unwrap();
        }
        let vocab: Map<String, Value> = (0..VOCAB).map(|id| (word(id), id.into())).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "post_processor": null, "decoder": null,
            "pre_tokenizer": { "type": "Split", "pattern": { "String": " " }, "behavior": "Removed", "invert": false },
            "model": { "type": "BPE", "vocab": vocab, "merges": [], "unk_token": word(0) },
        });
        std::fs::write(dense.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let template = json!({ "chat_template": TEMPLATE });
        std::fs::write(dense.join("tokenizer_config.json"), template.to_string()).unwrap();
        let text = |from: usize, count: usize| {
            let words: Vec<String> = (from..from + count).map(|i| word(3 + (i * i / 3) % 17)).collect();
            words.join(" ")
        };
        setup.write("train.txt", &text(0, 400));
        setup.write("valid.txt", &text(400, 60));
        setup.write("holes.toml", HOLES);
        let file = |name: &str| setup.text(name);
        let plan = format!(
            "[model]\nhidden = 16\nintermediate = 32\nlayers = 2\nheads = 2\nkv-heads = 1\ncontext = 12\n\
             [data.files]\ntrain = {:?}\nvalid = {:?}\ntokenizer = {:?}\n\
             [training]\nepochs = 3\nbatch = 2\nlr = 1e-3\n",
            file("train.txt"),
            file("valid.txt"),
            Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/nano-model/tokenizer.json"),
        );
        setup.write("plan.toml", &plan);
        let holes = ["compress", &file("dense"), "-o", &file("holes"), "--recipe", &file("holes.toml"), "-q"];
        let made = run(&holes.map(str::to_owned));
        assert_eq!(made.status.code(), Some(0), "{}", message(&made));
        setup
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Words, of which `@name` is a file or folder of this setup and `OUT` the output folder.
    pub(crate) fn line(&self, words: &str, output: &str) -> Vec<String> {
        let word = |word: &str| match word.strip_prefix('@') {
            Some("adapter") => golden("adapters/llama-gqa").to_str().unwrap().to_owned(),
            Some(name) => self.text(name),
            None if word == "OUT" => output.to_owned(),
            None => word.to_owned(),
        };
        words.split_whitespace().map(word).collect()
    }
}

/// One command line of every command that writes a folder.
pub(crate) const WRITING: [&str; 6] = [
    "compress @dense -o OUT --recipe int4 --calibration @train.txt --samples 7 --length 12",
    "recover @holes -o OUT --method masked --data @train.txt --valid @valid.txt --length 12 --steps 12 --every 4",
    "recover @holes -o OUT --method local --teacher @dense --data @train.txt --length 12 --sequences 4",
    "pretrain @plan.toml -o OUT",
    "export @holes -o OUT",
    "merge @dense --adapter @adapter -o OUT",
];

/// And of those that only read.
pub(crate) const READING: [&str; 6] = [
    "eval @dense --perplexity @valid.txt --context 12",
    "generate @dense --prompt w3 --max-tokens 20",
    "bench @dense -p 5 -n 3 -r 2",
    "bench @dense -p 5 -n 3 -r 2 -o jsonl",
    "inspect @dense",
    "verify @holes",
];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tamis/tests/golden").join(name)
}

/// Words of one letter, which need no merges.
fn word(id: usize) -> String {
    char::from(b'0' + id as u8).to_string()
}

pub(crate) fn tamis(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tamis"));
    command.args(arguments).env_remove("TAMIS_ISA").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[String]) -> Output {
    tamis(arguments).output().unwrap()
}

pub(crate) fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
