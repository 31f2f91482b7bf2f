//! What the fuzz targets call, and what the replay of their corpora calls in every test run: for each kind of
//! hostile input one function from bytes to a result. What is read from a path only is written to a folder first.

use std::cell::RefCell;
use std::path::Path;

use tamis::artifact::{Existing, Finish, Identity, Manifest, Resume, Writer, check_resumable};
use tamis::disk::digest::sha256;
use tamis::load::chat::Role;
use tamis::load::gguf::Header;
use tamis::load::{AddSpecial, ChatTemplate, Checkpoint, GenerationPrompt, Message, SpecialText, Tokenizer};
use tamis::load::{folder, open_adapter, safetensors};
use tamis::model::{Config, Decoder};
use tamis::ops::{CacheType, Reference};
use tamis::recipe::{Format, Recipe};
use tamis::recover::checkpoint;
use tamis::recover::settings::Losses;
use tamis::recover::student::{Arithmetic, Checkpointing};
use tamis::recover::teacher::Teacher;
use tamis::{Error, Kind, Result};

const CONFIG: &[u8] = include_bytes!("../../crates/tamis/tests/golden/models/llama-gqa/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../crates/tamis/tests/golden/models/llama-gqa/model.safetensors");

/// What a fuzzer asserts: bad input is an error, and never one of tamis.
pub fn check(outcome: Result<()>) {
    if let Err(error) = outcome {
        assert!(error.kind() != Kind::Defect, "{error}");
        assert!(error.to_string().contains("next: "), "{error}");
    }
}

/// The header of a safetensors file.
pub fn safetensors(bytes: &[u8]) -> Result<()> {
    safetensors::parse_file(bytes).map(drop)
}

/// `model.safetensors.index.json`.
pub fn index(bytes: &[u8]) -> Result<()> {
    folder::parse_index(bytes).map(drop)
}

/// The header of a GGUF file, and the configuration, tokenizer and template in it, where they are.
pub fn gguf(bytes: &[u8]) -> Result<()> {
    let header = Header::read(bytes, bytes.len() as u64)?;
    if header.metadata.get("tokenizer.ggml.model").is_some() {
        use_tokenizer(&Tokenizer::from_gguf(&header.metadata)?)?;
    }
    ChatTemplate::from_gguf(&header.metadata, Path::new("model.gguf"))?;
    Config::from_gguf(&header.metadata).map(drop)
}

/// A chat template, used on a short conversation.
pub fn chat(bytes: &[u8]) -> Result<()> {
    let template = ChatTemplate::new(text_of(bytes)?.into(), "<s>".into(), "</s>".into())?.at(0);
    let message = |role: Role| Message { role, content: "abc".into() };
    template.render(&[message(Role::User), message(Role::Assistant)], GenerationPrompt::Open).map(drop)
}

/// The manifest of an artifact.
pub fn artifact(bytes: &[u8]) -> Result<()> {
    Manifest::parse(bytes).map(drop)
}

/// A recipe in either format, applied to two linears.
pub fn recipe(bytes: &[u8]) -> Result<()> {
    let text = text_of(bytes)?;
    let recipe = Recipe::parse(text, Format::of(Path::new("recipe"), text), Path::new("recipe"))?;
    recipe.resolve(&["model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"]).map(drop)
}

/// A `tokenizer.json`, used on a few texts.
pub fn tokenizer(bytes: &[u8]) -> Result<()> {
    use_tokenizer(&Tokenizer::from_json(bytes)?)
}

fn use_tokenizer(tokenizer: &Tokenizer) -> Result<()> {
    let spaces = " ".repeat(200);
    let texts =
        ["", "a", "Once upon  a time,\r\n\tit's 12.5 <s>", "日本 🙂 e\u{301}\u{feff}\0", spaces.as_str()];
    for text in texts {
        let ids = tokenizer.encode(text, AddSpecial::AsTrained)?;
        // A byte becomes 64 at most, and a template puts some 200 tokens around a text.
        assert!(ids.len() <= 64 * text.len() + 256, "{} ids of {} bytes", ids.len(), text.len());
        tokenizer.decode(&ids, SpecialText::Keep)?;
    }
    let mut stream = tokenizer.stream(SpecialText::Skip);
    for id in (0..40).chain([u32::MAX]) {
        stream.push(id)?;
    }
    stream.finish()?;
    let json = tokenizer.to_json()?;
    assert!(Tokenizer::from_json(&json).is_ok(), "what is written is not read again");
    Ok(())
}

/// An adapter: its settings, a zero byte, its matrices.
pub fn adapter(bytes: &[u8]) -> Result<()> {
    let (settings, matrices) = cut_at(bytes, 0);
    let folder = folder_with(&[("adapter_config.json", settings), ("adapter_model.safetensors", matrices)]);
    let config = serde_json::from_slice(CONFIG).expect("the golden configuration is JSON");
    open_adapter(folder.path(), &Config::from_hf(&config)?).map(drop)
}

/// A text for calibration or training.
pub fn text(bytes: &[u8]) -> Result<()> {
    let folder = folder_with(&[("text", bytes)]);
    tamis::calibrate::read_documents(&folder.path().join("text")).map(drop)
}

/// A file of an unfinished run. Which one, the first line says.
pub fn runs(bytes: &[u8]) -> Result<()> {
    let (kind, bytes) = cut_at(bytes, b'\n');
    match kind {
        b"training" => checkpoint::Record::parse(bytes, "run").map(drop),
        b"identity" => {
            check_resumable(unfinished(bytes, b"").path(), &identity(), (Resume::Auto, Existing::Refuse))
        }
        b"part" => part(bytes),
        b"teacher" => teacher(bytes),
        _ => Err(Error::bad_data("no kind of file")),
    }
}

fn identity() -> Identity {
    Identity::new("recipe".into(), "model".into(), None)
}

/// An output folder with the identity of a run in it, and the record of a part.
fn unfinished(identity: &[u8], record: &[u8]) -> tempfile::TempDir {
    let output = folder_with(&[]);
    let work = output.path().join(".partial");
    std::fs::create_dir(&work).expect("a new folder");
    // The shortest file of tensors there is.
    let tensors: &[u8] = b"\x02\0\0\0\0\0\0\0{}";
    let files = [("identity.json", identity), ("head.json", record), ("head.safetensors", tensors)];
    for (name, bytes) in files {
        std::fs::write(work.join(name), bytes).expect("a file in a new folder");
    }
    output
}

/// The record of a finished part, which the run then takes over.
fn part(record: &[u8]) -> Result<()> {
    let ours = serde_json::to_vec(&identity()).expect("plain data");
    let output = unfinished(&ours, record);
    let writer = Writer::create_or_resume(output.path(), &identity(), (Resume::Auto, Existing::Refuse))?;
    if writer.finished().is_empty() {
        return Err(Error::bad_data("not the record of a finished part"));
    }
    writer.finish(Finish::default()).map(drop)
}

thread_local! {
    /// One for all runs of this thread.
    static TEACHER: RefCell<Option<Teacher>> = const { RefCell::new(None) };
}

/// What a teacher has said: the file that it is kept in.
fn teacher(bytes: &[u8]) -> Result<()> {
    let folder = folder_with(&[("teacher", bytes)]);
    let losses = Losses { next_token: 0.0, distillation: 1.0, feature: 0.0, temperature: 1.0, top: 2 };
    let how =
        Arithmetic { ops: &Reference, cache: CacheType::F32, exact: true, checkpointing: Checkpointing::Off };
    TEACHER.with_borrow_mut(|teacher| {
        let teacher = teacher.get_or_insert_with(new_teacher);
        teacher.keep(&folder.path().join("teacher"), &sha256(b"fuzz"))?;
        let said = teacher.say(how, losses, (&[0, 1], &[1, 2, 3, 4]))?;
        let opinions = said.opinions.expect("they were asked for");
        assert_eq!((opinions.ids.len(), opinions.log_probs.len()), (8, 8));
        Ok(())
    })
}

fn new_teacher() -> Teacher {
    let folder = folder_with(&[("config.json", CONFIG), ("model.safetensors", WEIGHTS)]);
    let model = folder.path().to_str().expect("a plain path");
    let decoder = Checkpoint::open(model).and_then(|model| Decoder::load(&model, &Reference));
    Teacher::new(decoder.expect("the golden model is sound"), (2, 1.0))
}

fn text_of(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| Error::bad_data(e.to_string()))
}

/// What comes before the first such byte, and what comes after.
fn cut_at(bytes: &[u8], mark: u8) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == mark);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// A new folder, in memory where the system has such a place.
fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a place for temporary files");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a file in a new folder");
    }
    folder
}
