//! Reads the files of a directory: the snapshot, and the journals that continue it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::record::{Head, Port, Record, Start, begin_journal};
use super::text::{Fault, First, Reader};
use crate::directory::Untrusted;
use crate::route::{Route, RouteKey, Source};

pub const SNAPSHOT: &str = "snapshot";
/// A snapshot that is being written.
pub const UNFINISHED: &str = "snapshot.new";
const JOURNAL: &str = "journal.";

/// The name of the journal with this number.
pub fn journal_name(number: u64) -> String {
    format!("{JOURNAL}{number}")
}

/// Routes and ports, as they were saved.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Saved {
    /// The last start.
    pub start: Option<Start>,
    /// By name.
    pub ports: BTreeMap<String, Port>,
    /// By source.
    routes: [BTreeMap<RouteKey, Route>; Source::ALL.len()],
}

impl Saved {
    pub fn routes(&self, source: Source) -> &BTreeMap<RouteKey, Route> {
        &self.routes[source as usize]
    }

    pub fn take_routes(&mut self, source: Source) -> BTreeMap<RouteKey, Route> {
        std::mem::take(&mut self.routes[source as usize])
    }

    pub fn route_count(&self) -> usize {
        self.routes.iter().map(BTreeMap::len).sum()
    }

    /// Applies a record. The error says why it cannot be one here.
    pub fn apply(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Start(start) => {
                if let Some(before) = &self.start {
                    for source in Source::ALL {
                        if !stays(source, before, &start) {
                            self.routes[source as usize].clear();
                        }
                    }
                }
                self.start = Some(start);
            }
            Record::Port(port) => drop(self.ports.insert(port.name.clone(), port)),
            Record::NoPort(name) => drop(self.ports.remove(&name)),
            Record::Set(source, route) => drop(self.routes[source as usize].insert(route.key(), route)),
            Record::Delete(source, key) => drop(self.routes[source as usize].remove(&key)),
            Record::Rename(names) => {
                let names = names.into_iter().collect();
                for routes in &mut self.routes {
                    routes.values_mut().for_each(|route| route.rename_devices(&names));
                    let attachments = routes.split_off(&RouteKey::FIRST_ATTACHMENT).into_values();
                    routes.extend(attachments.map(|route| (route.key(), route)));
                }
                let ports = std::mem::take(&mut self.ports).into_values();
                let ports = ports.map(|mut port| {
                    if let Some(new) = names.get(port.name.as_str()) {
                        port.name = new.to_string();
                    }
                    if let Some(to) = &mut port.cross_connect
                        && let Some(new) = names.get(to.as_str())
                    {
                        *to = new.to_string();
                    }
                    (port.name.clone(), port)
                });
                self.ports = ports.collect();
            }
            Record::Commit | Record::End(_) => return Err("it does not belong here"),
        }
        Ok(())
    }
}

/// Whether routes of `source` that were saved under `before` are wanted under `now`. Routes of a source that nobody
/// followed are those of a client that owns them, like static ones. A followed source has told another kernel, or the
/// kernel of another network namespace, about its routes; it will tell this one.
fn stays(source: Source, before: &Start, now: &Start) -> bool {
    let is_same_kernel = (&before.boot, before.netns) == (&now.boot, now.netns);
    match (before.follows.contains(&source), now.follows.contains(&source)) {
        (false, _) => true,
        (true, follows) => follows && is_same_kernel,
    }
}

/// What a directory has.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recovered {
    pub saved: Saved,
    /// The size of the snapshot and the journals.
    pub snapshot_bytes: u64,
    pub journal_bytes: u64,
    /// The journals that continue the snapshot, in order, with their valid sizes.
    pub(super) journals: Vec<(u64, u64)>,
    /// What is not whole, but explained by a process or a machine that stopped.
    pub notes: Vec<String>,
    /// Files that are not needed any more.
    pub(super) obsolete: Vec<PathBuf>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error(
        "{path} has version {version} of the format of saved routes and ports, and this program knows versions up to {known}: \
         load it with the newer version of mplsxdp that wrote it, or with `--discard-state` to start without it",
        path = path.display(),
        known = super::text::VERSION
    )]
    Newer { path: PathBuf, version: u32 },
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("nobody else may change where routes and ports are saved: {0}")]
    Untrusted(#[from] Untrusted),
}

impl Problem {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// A file is not what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub path: PathBuf,
    /// The line and the byte where the fault begins; `None`: the file as a whole.
    pub place: Option<(usize, usize)>,
    pub reason: String,
}

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged", self.path.display())?;
        if let Some((line, byte)) = self.place {
            write!(f, " at line {line} (byte {byte})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Reads the files of a directory; `None` if it has none.
pub fn recover(dir: &Path) -> Result<Option<Recovered>, Problem> {
    let mut journals = BTreeMap::new();
    let mut recovered = Recovered::default();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(Problem::io("read", dir))?,
    };
    let mut has_snapshot = false;
    for entry in entries {
        let entry = entry.map_err(Problem::io("read", dir))?;
        let name = entry.file_name();
        match name.to_str() {
            Some(SNAPSHOT) => has_snapshot = true,
            Some(UNFINISHED) => recovered.obsolete.push(entry.path()),
            Some(name) => {
                let number = name.strip_prefix(JOURNAL).and_then(|number| number.parse::<u64>().ok());
                journals.extend(number.map(|number| (number, entry.path())));
            }
            None => {}
        }
    }
    let path = dir.join(SNAPSHOT);
    let data = match fs::read(&path) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !has_snapshot && is_unused(&journals) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let reason = "it is missing, and there are journals that continue it".to_owned();
            return Err(Damage {
                path,
                place: None,
                reason,
            }
            .into());
        }
        Err(error) => return Err(Problem::io("read", &path)(error)),
    };
    recovered.snapshot_bytes = data.len() as u64;
    let number = read_snapshot(&path, &data, &mut recovered.saved)?;
    drop(data);
    let later = journals.split_off(&number);
    recovered.obsolete.extend(journals.into_values());
    let last = later.keys().next_back().copied().unwrap_or(number);
    let mut is_over = false;
    for (expected, (found, path)) in (number..).zip(&later) {
        if expected != *found {
            let path = dir.join(journal_name(expected));
            let reason = "it is missing, and there is one that continues it".to_owned();
            return Err(Damage {
                path,
                place: None,
                reason,
            }
            .into());
        }
        if is_over {
            recovered.obsolete.push(path.clone());
            continue;
        }
        let data = fs::read(path).map_err(Problem::io("read", path))?;
        let journal = Journal {
            path,
            number: expected,
            continues: expected > number,
            is_last: expected == last,
        };
        match journal.read(&data, &mut recovered)? {
            // Its head was not written.
            Some(0) => recovered.obsolete.push(path.clone()),
            Some(size) => {
                recovered.journals.push((expected, size));
                recovered.journal_bytes += size;
            }
            None => {
                is_over = true;
                recovered.obsolete.push(path.clone());
            }
        }
    }
    if later.is_empty() {
        let path = dir.join(journal_name(number));
        let reason = "it is missing, and the snapshot needs it".to_owned();
        return Err(Damage {
            path,
            place: None,
            reason,
        }
        .into());
    }
    Ok(Some(recovered))
}

/// Whether the first start did not come further than this: it makes the first journal, without changes, and then the
/// snapshot.
fn is_unused(journals: &BTreeMap<u64, PathBuf>) -> bool {
    let (_, head) = begin_journal(1, false);
    journals.iter().all(|(&number, path)| {
        number == 1 && fs::metadata(path).is_ok_and(|journal| journal.len() <= head.len() as u64)
    })
}

/// A file that is being read.
struct File<'a> {
    path: &'a Path,
    reader: Reader<'a>,
}

impl<'a> File<'a> {
    fn begin(path: &'a Path, data: &'a [u8]) -> Result<Result<Self, Fault>, Problem> {
        match Reader::begin(data) {
            Ok((reader, First::Known)) => Ok(Ok(Self { path, reader })),
            Ok((_, First::Newer(version))) => Err(Problem::Newer {
                path: path.to_owned(),
                version,
            }),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// The damage of the next line.
    fn damage(&self, reason: impl Into<String>) -> Problem {
        let place = Some((self.reader.line_number(), self.reader.position()));
        damage(self.path, place, reason)
    }

    /// That of the line just read, which began there.
    fn damage_at(&self, start: usize, reason: impl Into<String>) -> Problem {
        let place = Some((self.reader.line_number() - 1, start));
        damage(self.path, place, reason)
    }
}

fn damage(path: &Path, place: Option<(usize, usize)>, reason: impl Into<String>) -> Problem {
    Problem::Damaged(Damage {
        path: path.to_owned(),
        place,
        reason: reason.into(),
    })
}

const ENDS_EARLY: &str = "the file ends before its end";

/// Reads a snapshot, and returns the number of the journal that continues it.
pub fn read_snapshot(path: &Path, data: &[u8], saved: &mut Saved) -> Result<u64, Problem> {
    let mut file = match File::begin(path, data)? {
        Ok(file) => file,
        Err(Fault::Torn) => return Err(damage(path, Some((1, 0)), ENDS_EARLY)),
        Err(Fault::Damaged(reason)) => return Err(damage(path, Some((1, 0)), reason)),
    };
    let mut number = None;
    let mut routes = 0;
    loop {
        let start = file.reader.position();
        let line = match file.reader.next_line() {
            Ok(Some(line)) => line,
            Ok(None) | Err(Fault::Torn) => return Err(file.damage(ENDS_EARLY)),
            Err(Fault::Damaged(reason)) => return Err(file.damage(reason)),
        };
        if number.is_none() {
            number = match Head::read(line) {
                Ok(Head::Snapshot(number)) => Some(number),
                _ => return Err(file.damage_at(start, "it is not a snapshot")),
            };
            continue;
        }
        let record = Record::read(line).map_err(|reason| file.damage_at(start, reason))?;
        match record {
            Record::End(count) if count == routes && file.reader.position() == data.len() => {
                return number.ok_or_else(|| file.damage("it is not a snapshot"));
            }
            Record::End(_) => return Err(file.damage_at(start, "more or fewer routes came before")),
            record => {
                routes += u64::from(matches!(record, Record::Set(..)));
                saved.apply(record).map_err(|reason| file.damage_at(start, reason))?;
            }
        }
    }
}

/// A journal to be read.
pub struct Journal<'a> {
    pub path: &'a Path,
    pub number: u64,
    /// It continues another journal.
    pub continues: bool,
    /// Only the last one may be torn.
    pub is_last: bool,
}

impl Journal<'_> {
    /// Applies the journal's whole changes, and returns how many bytes they have; `None` if changes before it were not
    /// written.
    pub fn read(&self, data: &[u8], recovered: &mut Recovered) -> Result<Option<u64>, Problem> {
        let path = self.path;
        let mut whole = 0;
        let mut file = match File::begin(path, data)? {
            Ok(file) => file,
            Err(Fault::Torn) if self.is_last => return Ok(Some(self.torn(data, whole, recovered))),
            Err(Fault::Torn) => return Err(damage(path, Some((1, 0)), ENDS_EARLY)),
            Err(Fault::Damaged(reason)) => return Err(damage(path, Some((1, 0)), reason)),
        };
        let mut is_begun = false;
        let mut pending = Vec::new();
        loop {
            let start = file.reader.position();
            let line = match file.reader.next_line() {
                Ok(Some(line)) => line,
                Ok(None) if whole == data.len() => return Ok(Some(whole as u64)),
                Ok(None) | Err(Fault::Torn) if self.is_last => return Ok(Some(self.torn(data, whole, recovered))),
                Ok(None) | Err(Fault::Torn) => return Err(file.damage(ENDS_EARLY)),
                Err(Fault::Damaged(reason)) => return Err(file.damage(reason)),
            };
            if !is_begun {
                is_begun = true;
                whole = file.reader.position();
                match Head::read(line) {
                    Ok(Head::Journal { number, after_gap }) if number == self.number => {
                        if after_gap && self.continues {
                            recovered.notes.push(format!(
                                "changes before those in {} could not be written, so these are not taken over either",
                                path.display()
                            ));
                            return Ok(None);
                        }
                    }
                    _ => {
                        let reason = format!("it is not journal number {}", self.number);
                        return Err(file.damage_at(start, reason));
                    }
                }
                continue;
            }
            let record = Record::read(line).map_err(|reason| file.damage_at(start, reason))?;
            if record != Record::Commit {
                pending.push((start, record));
                continue;
            }
            for (start, record) in pending.drain(..) {
                let applied = recovered.saved.apply(record);
                applied.map_err(|reason| damage(path, Some((file.reader.line_number(), start)), reason))?;
            }
            whole = file.reader.position();
        }
    }

    /// Its end is not whole: a change that nobody was told about is left out.
    fn torn(&self, data: &[u8], whole: usize, recovered: &mut Recovered) -> u64 {
        recovered.notes.push(format!(
            "{} ends within a change, at byte {whole} of {}: the process or the machine stopped while it was written; \
             the change is left out",
            self.path.display(),
            data.len()
        ));
        whole as u64
    }
}
