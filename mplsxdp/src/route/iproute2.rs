//! Names that iproute2's files on this machine give to numbers.

use std::path::Path;

use super::line::unsigned;

/// The directories of iproute2's files; later ones take precedence.
const DIRECTORIES: [&str; 2] = ["/usr/share/iproute2", "/etc/iproute2"];

/// Numbers with their names.
#[derive(Debug)]
pub struct Names(Vec<(u32, String)>);

impl Names {
    /// Reads the files of this name, such as `rt_protos`, and those in the directories of this name with `.d`. Missing
    /// or unreadable files count as empty.
    pub fn read(file: &str) -> Self {
        let directories = DIRECTORIES.into_iter().map(Path::new);
        let texts = directories.flat_map(|directory| texts(directory, file));
        Self(texts.flat_map(|text| Self::parse(&text).0).collect())
    }

    /// The lines of such a file that have a number and a name.
    pub fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let mut words = line.split('#').next()?.split_ascii_whitespace();
            Some((unsigned(words.next()?)?, words.next()?.to_owned()))
        };
        Self(text.lines().filter_map(entry).collect())
    }

    /// The number of this name; if there are several, the one given last.
    pub fn number(&self, name: &str) -> Option<u32> {
        let mut found = self.0.iter().rev().filter(|(_, other)| other == name);
        found.next().map(|(number, _)| *number)
    }

    /// The names of this number, as they were given.
    pub fn names(&self, number: u32) -> impl Iterator<Item = &str> {
        let names = self.0.iter().filter(move |(other, _)| *other == number);
        names.map(|(_, name)| name.as_str())
    }
}

fn texts(directory: &Path, file: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join(format!("{file}.d")));
    let mut parts: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    parts.sort();
    parts.insert(0, directory.join(file));
    parts
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_iproute2_gives_names_to_numbers() {
        let names = Names::parse(
            "#\n# of FRR\n193\tldp\n 194  sharp # a comment\n0xc3 pbr\n197\nmany words\n193 ldp2\n77 ldp\n-1 x\n1000 red\n",
        );
        for (name, number) in [
            ("ldp", Some(77)),
            ("ldp2", Some(193)),
            ("sharp", Some(194)),
            ("pbr", Some(195)),
            ("red", Some(1000)),
            ("words", None),
            ("x", None),
        ] {
            assert_eq!(names.number(name), number, "{name}");
        }
        assert!(names.names(193).eq(["ldp", "ldp2"]));
        assert_eq!(names.names(197).count(), 0);
    }
}
