//! Names of interfaces, as Linux accepts them.

/// Why a text is not the name of an interface.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidInterface {
    #[error("`{0}` is not the name of an interface: 1 to {most} bytes without `/`, `:` and spaces", most = libc::IFNAMSIZ - 1)]
    NotAName(Box<str>),
    #[error("`{0}` is not the name of a new interface: it has a `%`")]
    NotNew(Box<str>),
}

/// Checks what Linux accepts as the name of an interface (dev_valid_name), optionally with one or two VLAN identifiers.
/// The error says what is wrong.
pub fn check_interface(name: &str) -> Result<(), InvalidInterface> {
    let without_vid = |name| str::rsplit_once(name, '.').filter(|(_, vid)| vid.parse::<u16>().is_ok());
    let parent = without_vid(name).map(|(parent, _)| parent);
    let grandparent = parent.and_then(without_vid).map(|(parent, _)| parent);
    if [Some(name), parent, grandparent]
        .into_iter()
        .flatten()
        .any(is_interface)
    {
        Ok(())
    } else {
        Err(InvalidInterface::NotAName(name.into()))
    }
}

fn is_interface(name: &str) -> bool {
    // Like the kernel's isspace(), which treats bytes as Latin-1.
    let is_space = |byte| matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0);
    !matches!(name, "" | "." | "..")
        && name.len() < libc::IFNAMSIZ
        && !name
            .bytes()
            .any(|byte| matches!(byte, 0 | b'/' | b':') || is_space(byte))
}

/// Checks what Linux accepts as the name of a new interface (dev_alloc_name): it would fill in a number for `%d`.
pub fn check_new_interface(name: &str) -> Result<(), InvalidInterface> {
    if !is_interface(name) {
        return Err(InvalidInterface::NotAName(name.into()));
    }
    if name.contains('%') {
        return Err(InvalidInterface::NotNew(name.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_are_those_that_the_kernel_takes() {
        for name in ["eth1", "a\u{2003}", "a\u{85}", "\u{e9}th0", "fifteen-is-fine"] {
            assert_eq!(check_interface(name), Ok(()), "{name:?}");
        }
        // The byte 0xa0 is also part of some letters.
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\u{b}b",
            "a\u{a0}b",
            "\u{e0}",
            "a\0b",
            "sixteen-is-a-lot",
        ] {
            assert!(check_interface(name).is_err(), "{name:?}");
        }
    }
}
