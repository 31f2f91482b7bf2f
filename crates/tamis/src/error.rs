//! The one error of the library: what went wrong, where, and what to do next. There is none without a next step: a
//! [`Draft`] has none yet and is no error, the other classes begin with the usual one of their kind.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What class of failure this is; each class has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A defect of tamis.
    Defect,
    /// The request cannot be carried out as asked.
    Usage,
    /// A quality gate was not met.
    Quality,
    /// Not enough memory, after every fallback.
    Memory,
    /// NaN or infinity where numbers must be finite.
    NonFinite,
    /// A file holds something it must not hold.
    BadData,
    /// A file or model is not there.
    Missing,
    /// The output cannot be created.
    CannotWrite,
    /// Reading or writing failed, or the disk is full.
    Io,
    /// Stopped on request with all finished work kept.
    Stopped,
    /// A recipe is invalid.
    Recipe,
}

impl Kind {
    /// All classes, by exit code.
    pub const ALL: [Self; 11] = [
        Self::Defect,
        Self::Usage,
        Self::Quality,
        Self::Memory,
        Self::NonFinite,
        Self::BadData,
        Self::Missing,
        Self::CannotWrite,
        Self::Io,
        Self::Stopped,
        Self::Recipe,
    ];

    /// Exit code of a process that ends with this failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Defect => 1,
            Self::Usage => 2,
            Self::Quality => 3,
            Self::Memory => 4,
            Self::NonFinite => 5,
            Self::BadData => 65,
            Self::Missing => 66,
            Self::CannotWrite => 73,
            Self::Io => 74,
            Self::Stopped => 75,
            Self::Recipe => 78,
        }
    }

    /// In a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Defect => "a defect of tamis",
            Self::Usage => "the request cannot be carried out as asked",
            Self::Quality => "a quality gate was not met",
            Self::Memory => "out of memory",
            Self::NonFinite => "NaN or infinity where numbers must be finite",
            Self::BadData => "bad input data",
            Self::Missing => "an input is missing",
            Self::CannotWrite => "the output cannot be created",
            Self::Io => "reading or writing failed, or the disk is full",
            Self::Stopped => "stopped safely: give the same command again to go on",
            Self::Recipe => "a recipe is invalid",
        }
    }

    /// What to do where nothing better is known.
    fn usual_next(self) -> &'static str {
        match self {
            Self::Defect => "this is a defect of tamis: please report it with the command that was given",
            Self::Usage => "tamis COMMAND --help shows what can be asked for",
            Self::Quality => "the result was not accepted: change the settings and run again",
            Self::Memory => "free memory, raise the limit, or choose smaller settings",
            Self::NonFinite => "use another model or text, or settings that change less at once",
            Self::BadData => {
                "the file is damaged, or not what is asked for here: fetch or make it again, or name another"
            }
            Self::Missing => "check the path, or fetch or make it first",
            Self::CannotWrite => "choose an output folder that can be written",
            Self::Io => "check disk and permissions, and give the same command again",
            Self::Stopped => "give the same command again to go on",
            Self::Recipe => "tamis recipe show NAME prints a valid one, tamis recipe check FILE checks yours",
        }
    }
}

/// An error with its place (file, tensor, byte offset, line) and the next step.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    problem: String,
    place: Box<Place>,
}

#[derive(Debug, Clone, Default)]
struct Place {
    file: Option<PathBuf>,
    tensor: Option<String>,
    offset: Option<u64>,
    line: Option<u64>,
    next: Option<String>,
}

/// A request that is refused, before somebody has said what to ask for instead: [`Draft::next`] makes an error of it.
#[derive(Debug, Clone)]
#[must_use]
pub struct Draft(Error);

impl Draft {
    /// Says what to do next.
    pub fn next(self, next: impl Into<String>) -> Error {
        self.0.next(next)
    }
    /// Names the file.
    pub fn file(self, file: impl AsRef<Path>) -> Self {
        Self(self.0.file(file))
    }
    /// Names the tensor.
    pub fn tensor(self, tensor: impl Into<String>) -> Self {
        Self(self.0.tensor(tensor))
    }
}

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of class `kind`; `problem` says what is wrong in one sentence. The next step is the usual one of
    /// this kind, unless [`Error::next`] gives a better one.
    pub fn new(kind: Kind, problem: impl Into<String>) -> Self {
        Self { kind, problem: problem.into(), place: Box::default() }
    }
    /// Shorthand for [`Kind::BadData`].
    pub fn bad_data(problem: impl Into<String>) -> Self {
        Self::new(Kind::BadData, problem)
    }
    /// Shorthand for [`Kind::Missing`].
    pub fn missing(problem: impl Into<String>) -> Self {
        Self::new(Kind::Missing, problem)
    }
    /// Shorthand for [`Kind::Defect`].
    pub fn defect(problem: impl Into<String>) -> Self {
        Self::new(Kind::Defect, problem)
    }
    /// A request that is refused ([`Kind::Usage`]); not an error before it says what to ask for instead.
    pub fn usage(problem: impl Into<String>) -> Draft {
        Draft(Self::new(Kind::Usage, problem))
    }
    /// A failed read of `file`: [`Kind::Missing`] where there is none, [`Kind::BadData`] where it is something else,
    /// [`Kind::Io`] for the rest.
    pub fn reading(file: impl AsRef<Path>, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Kind::Missing,
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::IsADirectory => Kind::BadData,
            _ => Kind::Io,
        };
        Self::new(kind, format!("cannot read: {error}")).file(file)
    }
    /// A failed write to `file`: [`Kind::CannotWrite`] where the name cannot be taken, [`Kind::Io`] for the rest.
    pub fn writing(file: impl AsRef<Path>, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::AlreadyExists => Kind::CannotWrite,
            _ => Kind::Io,
        };
        Self::of_disk(kind, "cannot write", error).file(file)
    }
    /// A file or folder that could not be made: [`Kind::CannotWrite`], whatever the system says, but [`Kind::Io`]
    /// where the disk is full.
    pub fn creating(file: impl AsRef<Path>, error: &std::io::Error) -> Self {
        Self::of_disk(Kind::CannotWrite, "cannot create", error).file(file)
    }
    /// What could not be done, or that the disk is full ([`Kind::Io`]).
    fn of_disk(kind: Kind, what: &str, error: &std::io::Error) -> Self {
        if is_full(error) {
            return Self::new(Kind::Io, "the disk is full").next("free some and give the same command again");
        }
        Self::new(kind, format!("{what}: {error}"))
    }
    /// Names the file.
    pub fn file(mut self, file: impl AsRef<Path>) -> Self {
        self.place.file = Some(file.as_ref().to_path_buf());
        self
    }
    /// Names the tensor.
    pub fn tensor(mut self, tensor: impl Into<String>) -> Self {
        self.place.tensor = Some(tensor.into());
        self
    }
    /// Gives the byte offset in the file.
    pub fn offset(mut self, offset: u64) -> Self {
        self.place.offset = Some(offset);
        self
    }
    /// Gives the line in the file, counted from 1.
    pub fn line(mut self, line: u64) -> Self {
        self.place.line = Some(line);
        self
    }
    /// Says what to do next.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.place.next = Some(next.into());
        self
    }
    /// Fills in the file where none is named yet.
    pub fn or_file(self, file: impl AsRef<Path>) -> Self {
        if self.place.file.is_some() { self } else { self.file(file) }
    }
    /// Fills in the file where none is named yet and the failure is about what is in a file, not about the request.
    pub fn about(self, file: impl AsRef<Path>) -> Self {
        match self.kind {
            Kind::BadData | Kind::NonFinite | Kind::Missing => self.or_file(file),
            _ => self,
        }
    }
    /// The same failure in another class; place and next step stay.
    #[must_use]
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
    /// Whether a file is named.
    pub fn names_file(&self) -> bool {
        self.place.file.is_some()
    }
    /// Class of the failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// What went wrong, without the place.
    pub fn problem(&self) -> &str {
        &self.problem
    }
    /// Process exit code of this failure.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, tensor, offset, line, next } = &*self.place;
        if let Some(file) = file {
            write!(f, "{}", file.display())?;
            if let Some(line) = line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
        }
        if let Some(tensor) = tensor {
            write!(f, "tensor {tensor}: ")?;
        }
        write!(f, "{}", self.problem)?;
        if let Some(offset) = offset {
            write!(f, " (at byte {offset})")?;
        }
        write!(f, "\n  next: {}", next.as_deref().unwrap_or(self.kind.usual_next()))
    }
}

impl std::error::Error for Error {}

/// Whether a write failed for want of room.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Longest text of a file that a message repeats.
const REPEATED: usize = 300;

/// What a file says, as it may stand in a message: one line, short, nothing that drives a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if line.len() > REPEATED {
            line.push_str(" ...");
            break;
        }
        match c {
            '\n' | '\t' => line.push(' '),
            c if c.is_control() || is_invisible(c) => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

/// Characters that change how others are shown (direction, breaks, width) and show nothing themselves.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_an_exit_code_of_its_own() {
        assert!(Kind::ALL.is_sorted_by_key(|kind| kind.exit_code()));
        assert!(Kind::ALL.windows(2).all(|pair| pair[0].exit_code() != pair[1].exit_code()));
    }

    #[test]
    fn what_cannot_be_made_cannot_be_written_unless_the_disk_is_full() {
        let kind = |kind: ErrorKind| Error::creating("f", &kind.into()).kind();
        let refused = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::Other];
        assert_eq!(refused.map(kind), [Kind::CannotWrite; 3]);
        assert_eq!([ErrorKind::StorageFull, ErrorKind::QuotaExceeded].map(kind), [Kind::Io; 2]);
    }

    #[test]
    fn what_a_file_says_stays_on_its_line() {
        assert_eq!(one_line("a\n  next: b\u{1b}[2J\u{202e}c\u{e9}"), "a   next: b\\u{1b}[2J\\u{202e}c\u{e9}");
        assert!(one_line(&"\u{1f642}".repeat(10_000)).len() < 320);
    }
}
