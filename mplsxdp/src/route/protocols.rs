//! The names of routing protocols: the standard ones, and those that iproute2's files on this machine add.

use std::sync::OnceLock;

use super::iproute2::Names;
use super::{Protocol, UnknownProtocol};

/// The protocol of this name or number.
pub fn parse(text: &str) -> Result<Protocol, UnknownProtocol> {
    let own = || local().number(text).and_then(|number| u8::try_from(number).ok());
    text.parse().or_else(|error| own().map(Protocol).ok_or(error))
}

/// The protocol's name for people: one that [`parse`] accepts for it, or else the number.
pub fn name(protocol: Protocol) -> String {
    let mut own = local().names(protocol.0.into());
    let own = own.find(|name| parse(name).ok() == Some(protocol));
    match (protocol.name(), own) {
        (None, Some(name)) => name.to_owned(),
        _ => protocol.to_string(),
    }
}

/// The names of this machine, read when they are first needed.
fn local() -> &'static Names {
    static LOCAL: OnceLock<Names> = OnceLock::new();
    LOCAL.get_or_init(|| Names::read("rt_protos"))
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

    /// As FRR's package installs them (rt_protos.d/frr.conf), except for its second `static`.
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
        assert_eq!(Names::parse("196  static\n").number("static"), Some(196));
        assert_eq!("static".parse(), Ok(Protocol::STATIC));
        assert_eq!(Protocol(196).to_string(), "frr-static");
    }
}
