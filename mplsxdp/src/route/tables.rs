//! The names of routing tables: the kernel's own, and those that iproute2's files on this machine add.

use std::sync::OnceLock;

use super::RoutingTable;
use super::iproute2::Names;
use super::line::unsigned;

/// The table of this name or number.
pub fn parse(text: &str) -> Option<RoutingTable> {
    let known = RoutingTable::named(text).or_else(|| unsigned(text).map(RoutingTable));
    known.or_else(|| local().number(text).map(RoutingTable))
}

/// The table's name for people: one that [`parse`] accepts for it, or else the number.
pub fn name(table: RoutingTable) -> String {
    let mut own = local().names(table.0);
    let own = own.find(|name| parse(name) == Some(table));
    match (table.name(), own) {
        (None, Some(name)) => name.to_owned(),
        _ => table.to_string(),
    }
}

/// The names of this machine, read when they are first needed.
fn local() -> &'static Names {
    static LOCAL: OnceLock<Names> = OnceLock::new();
    LOCAL.get_or_init(|| Names::read("rt_tables"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("main", 254),
            ("local", 255),
            ("default", 253),
            ("7", 7),
            ("0x3e8", 1000),
        ] {
            assert_eq!(parse(text), Some(RoutingTable(number)), "{text}");
        }
        let named = |number| name(RoutingTable(number));
        assert_eq!((named(254), named(4_000_000_000)), ("main".into(), "4000000000".into()));
        for text in ["", "mainn", "-1", "4294967296", "MAIN"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
