//! What the lines of the files say.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::text::Writer;
use super::{Batch, Part, Piece};
use crate::control::api::Checksum;
use crate::dataplane::class_maps::{DscpMap, TcMap};
use crate::dataplane::label_ranges::LabelRanges;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::route::line::{self, Family};
use crate::route::{Owner, Route, RouteKey, Source};
use crate::strict;

/// A process has started with this state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Identifies its network namespace until the next boot.
    pub netns: u64,
    pub hash_seed: u32,
    /// The sources of routes that it follows.
    pub follows: Vec<Source>,
}

/// A port that is not, or not as it is now, in the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub name: String,
    /// Only for sending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tx_only: bool,
    /// Accepts labelled frames.
    pub mpls: bool,
    /// Only with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_labels: Option<LabelRanges>,
    #[serde(default, skip_serializing_if = "MplsMtu::is_default")]
    pub mpls_mtu: MplsMtu,
    /// The port that every frame goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_connect: Option<String>,
    #[serde(default, skip_serializing_if = "DscpMap::is_default")]
    pub dscp_map: DscpMap,
    #[serde(default, skip_serializing_if = "TcMap::is_default")]
    pub tc_map: TcMap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// The second line of a file: which one it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// The journal with this number continues it.
    Snapshot(u64),
    Journal {
        number: u64,
        /// Changes before its first one were not written.
        after_gap: bool,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    Start(Start),
    Port(Port),
    NoPort(String),
    Set(Source, Route),
    Delete(Source, RouteKey),
    Rename(BTreeMap<Arc<str>, Arc<str>>),
    /// The records since the last one are a whole change.
    Commit,
    /// The end of a snapshot of so many routes.
    End(u64),
}

impl Record {
    /// Reads a line. The error says what is wrong.
    pub fn read(line: &str) -> Result<Self, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let of_source = || {
            let (source, rest) = rest.split_once(' ').ok_or("it has no owner")?;
            let source: Source = source.parse().map_err(|error| format!("{error}"))?;
            Ok::<_, String>((source, rest))
        };
        let json = |error: serde_json::Error| error.to_string();
        Ok(match word {
            "start" => Self::Start(strict::from_json(rest).map_err(json)?),
            "port" => Self::Port(strict::from_json(rest).map_err(json)?),
            "no-port" => Self::NoPort(strict::from_json(rest).map_err(json)?),
            "rename" => Self::Rename(as_written(rest)?),
            "set" => {
                let (source, text) = of_source()?;
                let route = line::route(text, Family::Any);
                Self::Set(source, route.map_err(|error| error.to_string())?)
            }
            "delete" => {
                let (source, text) = of_source()?;
                let key = line::key(text, Family::Any);
                Self::Delete(source, key.map_err(|error| error.to_string())?)
            }
            "commit" if rest.is_empty() => Self::Commit,
            "end" => Self::End(rest.parse().map_err(|_| "it has no number of routes")?),
            _ => return Err("it does not begin with a known word".to_owned()),
        })
    }

    pub fn write(&self, writer: &mut Writer, buffer: &mut Vec<u8>) {
        match self {
            Self::Start(start) => write_json(writer, buffer, "start", start),
            Self::Port(port) => write_json(writer, buffer, "port", port),
            Self::NoPort(name) => write_json(writer, buffer, "no-port", name),
            Self::Rename(names) => write_json(writer, buffer, "rename", names),
            Self::Set(source, route) => set(writer, buffer, *source, route),
            Self::Delete(source, key) => delete(writer, buffer, *source, *key),
            Self::Commit => writer.line(buffer, |line| line.extend_from_slice(b"commit")),
            Self::End(routes) => writer.line(buffer, |line| drop(write!(line, "end {routes}"))),
        }
    }
}

fn write_json(writer: &mut Writer, buffer: &mut Vec<u8>, word: &str, value: &impl Serialize) {
    writer.line(buffer, |line| {
        line.extend_from_slice(word.as_bytes());
        line.push(b' ');
        // Strings and numbers can always be written to memory.
        let _ = serde_json::to_writer(line, value);
    });
}

fn set(writer: &mut Writer, buffer: &mut Vec<u8>, source: Source, route: &Route) {
    writer.line(buffer, |line| drop(write!(line, "set {} {route}", source.name())));
}

fn delete(writer: &mut Writer, buffer: &mut Vec<u8>, source: Source, key: RouteKey) {
    writer.line(buffer, |line| drop(write!(line, "delete {} {key}", source.name())));
}

/// The beginning of a journal.
pub fn begin_journal(number: u64, after_gap: bool) -> (Writer, Vec<u8>) {
    begin(Head::Journal { number, after_gap })
}

/// The beginning of a file.
pub fn begin(head: Head) -> (Writer, Vec<u8>) {
    let mut buffer = Vec::new();
    let mut writer = Writer::begin(&mut buffer);
    head.write(&mut writer, &mut buffer);
    (writer, buffer)
}

impl Head {
    fn write(self, writer: &mut Writer, buffer: &mut Vec<u8>) {
        writer.line(buffer, |line| drop(serde_json::to_writer(line, &self)));
    }

    pub fn read(line: &str) -> Result<Self, String> {
        as_written(line)
    }
}

/// Reads JSON that can be written in one way only. Serde would accept others, such as a key that occurs twice.
fn as_written<T: DeserializeOwned + Serialize>(text: &str) -> Result<T, String> {
    let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match serde_json::to_string(&value) {
        Ok(written) if written == text => Ok(value),
        Ok(written) => Err(format!("it must be `{written}`")),
        Err(error) => Err(error.to_string()),
    }
}

/// Writes some of the records of a batch: those from `at` on, until the buffer has `enough` bytes. Returns where to
/// continue; `None` if the batch is complete.
pub fn write_batch(
    batch: &Batch,
    (mut part, mut index): (usize, usize),
    writer: &mut Writer,
    buffer: &mut Vec<u8>,
    enough: usize,
) -> Option<(usize, usize)> {
    let owned = |writer: &mut Writer, buffer: &mut Vec<u8>, owner, route: &Route| match owner {
        // The next load has it from the configuration.
        Owner::Config => delete(writer, buffer, owner.source(), route.key()),
        Owner::Of(source) if batch.renamed.is_empty() => set(writer, buffer, source, route),
        Owner::Of(source) => {
            let mut route = route.clone();
            batch.renamed.iter().for_each(|names| route.rename_devices(names));
            set(writer, buffer, source, &route);
        }
    };
    while let Some(this) = batch.parts.get(part) {
        while index < this.records() {
            if buffer.len() >= enough {
                return Some((part, index));
            }
            match this {
                Part::Routes { owner, routes } => owned(writer, buffer, *owner, &routes[index]),
                Part::Settled(routes) => owned(writer, buffer, routes[index].0, &routes[index].1),
                Part::Deleted { source, keys } => delete(writer, buffer, *source, keys[index]),
                Part::Port(port) => write_json(writer, buffer, "port", port),
                Part::NoPort(name) => write_json(writer, buffer, "no-port", name),
                Part::Renamed(names) => write_json(writer, buffer, "rename", names),
            }
            index += 1;
        }
        (part, index) = (part + 1, 0);
    }
    Record::Commit.write(writer, buffer);
    None
}

/// Writes a piece of a snapshot. Returns how many routes it has that are kept.
pub fn write_piece(piece: &Piece, writer: &mut Writer, buffer: &mut Vec<u8>) -> u64 {
    for port in &piece.ports {
        write_json(writer, buffer, "port", port);
    }
    let mut written = 0;
    for (owner, route) in &piece.routes {
        if let Owner::Of(source) = owner {
            set(writer, buffer, *source, route);
            written += 1;
        }
    }
    written
}
