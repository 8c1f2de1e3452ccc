//! The names of routing protocols: those that everybody knows, and those that iproute2's files on this machine add.

use std::path::Path;
use std::sync::OnceLock;

use super::{Protocol, UnknownProtocol};

/// Where iproute2 keeps its tables, those that win last.
const DIRECTORIES: [&str; 2] = ["/usr/share/iproute2", "/etc/iproute2"];

/// The protocol of this name or number.
pub fn parse(text: &str) -> Result<Protocol, UnknownProtocol> {
    text.parse().or_else(|error| named(local(), text).ok_or(error))
}

/// What people call a protocol here: a name that [`parse`] takes for it, else the number.
pub fn name(protocol: Protocol) -> String {
    let mut names = local().iter().filter(|(number, _)| *number == protocol);
    let own = names.find(|(_, name)| parse(name).ok() == Some(protocol));
    match (protocol.name(), own) {
        (None, Some((_, name))) => name.clone(),
        _ => protocol.to_string(),
    }
}

fn named(table: &[(Protocol, String)], text: &str) -> Option<Protocol> {
    let mut found = table.iter().rev().filter(|(_, name)| name == text);
    found.next().map(|(protocol, _)| *protocol)
}

/// The tables of this machine, read when they are first needed.
fn local() -> &'static [(Protocol, String)] {
    static LOCAL: OnceLock<Vec<(Protocol, String)>> = OnceLock::new();
    LOCAL.get_or_init(|| {
        let directories = DIRECTORIES.into_iter().map(Path::new);
        directories.flat_map(files).flat_map(|text| table(&text)).collect()
    })
}

/// `rt_protos` and what is in `rt_protos.d`. Files that are not there, or cannot be read, have no names.
fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join("rt_protos.d")).into_iter().flatten();
    let mut parts: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    parts.sort();
    parts.insert(0, directory.join("rt_protos"));
    parts
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect()
}

/// The lines of such a file that have a number and a name.
fn table(text: &str) -> Vec<(Protocol, String)> {
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let (number, name) = (words.next()?, words.next()?);
        let is_number = number.starts_with(|first: char| first.is_ascii_digit());
        let protocol = number.parse().ok().filter(|_| is_number)?;
        Some((protocol, name.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [("static", 4), ("bgp", 186), ("ospf", 188), ("7", 7), ("0xfe", 254)] {
            assert_eq!(parse(text), Ok(Protocol(number)), "{text}");
        }
        assert_eq!(
            (name(Protocol(186)), name(Protocol(4))),
            ("bgp".into(), "static".into())
        );
        for text in ["", "bgpp", "256", "-1", "0x100", "BGP"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// As FRR's package installs them (rt_protos.d/frr.conf), but for its second `static`.
    #[test]
    fn names_of_frr_are_known_without_its_package() {
        let names = [
            (186, "bgp"),
            (187, "isis"),
            (188, "ospf"),
            (189, "rip"),
            (190, "ripng"),
            (191, "nhrp"),
            (192, "eigrp"),
            (193, "ldp"),
            (194, "sharp"),
            (195, "pbr"),
            (196, "frr-static"),
            (197, "openfabric"),
            (198, "srte"),
        ];
        for (number, text) in names {
            assert_eq!(name(Protocol(number)), text);
            assert_eq!(parse(text), Ok(Protocol(number)));
        }
        assert_eq!(parse("static"), Ok(Protocol::STATIC));
        assert_eq!(parse("196"), Ok(Protocol(196)));
    }

    /// As on a machine with FRR's file, which calls 196 `static`.
    #[test]
    fn a_name_in_two_places_is_the_one_that_everybody_knows() {
        let frr = table("196  static\n");
        assert_eq!(named(&frr, "static"), Some(Protocol(196)));
        assert_eq!("static".parse(), Ok(Protocol::STATIC));
        assert_eq!(Protocol(196).to_string(), "frr-static");
    }

    #[test]
    fn a_table_of_iproute2_adds_names() {
        let text = "#\n# of FRR\n193\tldp\n 194  sharp # a comment\n0xc3 pbr\n197\nmany words\n999 large\n193 ldp2\n";
        let table = table(text);
        let entries: Vec<_> = table
            .iter()
            .map(|(Protocol(number), name)| (*number, name.as_str()))
            .collect();
        assert_eq!(entries, [(193, "ldp"), (194, "sharp"), (195, "pbr"), (193, "ldp2")]);
        assert_eq!(named(&table, "ldp"), Some(Protocol(193)));
        assert_eq!(named(&table, "none"), None);
    }
}
