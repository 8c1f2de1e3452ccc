//! The maps between DSCPs and TCs of a port, as people write them: `46=5,34=4`.

use std::fmt;
use std::str::FromStr;

use mplsxdp_common::abi::{DscpToTc, TcToDscp, TrafficClasses};

use crate::text::serde_as_text;

const DSCPS: u8 = 64;
const TCS: u8 = 8;

/// DSCP to TC, for packets that arrive without labels. Empty: the TC is the IP precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DscpMap(DscpToTc);

/// TC to DSCP, for packets whose last label is popped. Empty: the DSCP stays, or is as `--tc-propagate` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcMap(TcToDscp);

serde_as_text!(DscpMap);
serde_as_text!(TcMap);

/// Why a text is not one of these maps.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidClassMap {
    #[error(
        "`{0}` is not DSCP=TC: write 0 to 63, `=` and 0 to 7, such as 46=5, several separated by commas, or `default`"
    )]
    Dscp(Box<str>),
    #[error(
        "`{0}` is not TC=DSCP: write 0 to 7, `=` and 0 to 63, such as 5=46, several separated by commas, or `default`"
    )]
    Tc(Box<str>),
    #[error("{0} is mapped twice")]
    Twice(u8),
}

impl DscpMap {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TcMap {
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }
}

/// Both, as the data plane has them.
pub fn traffic_classes(dscp: DscpMap, tc: TcMap) -> TrafficClasses {
    TrafficClasses { tc: tc.0, dscp: dscp.0 }
}

impl FromStr for DscpMap {
    type Err = InvalidClassMap;

    fn from_str(text: &str) -> Result<Self, InvalidClassMap> {
        let pairs = pairs(text, DSCPS, TCS, InvalidClassMap::Dscp)?;
        let map = pairs
            .into_iter()
            .fold(DscpToTc::default(), |map, (dscp, tc)| map.with(dscp, tc));
        Ok(Self(map))
    }
}

impl FromStr for TcMap {
    type Err = InvalidClassMap;

    fn from_str(text: &str) -> Result<Self, InvalidClassMap> {
        let pairs = pairs(text, TCS, DSCPS, InvalidClassMap::Tc)?;
        let map = pairs
            .into_iter()
            .fold(TcToDscp::default(), |map, (tc, dscp)| map.with(tc, dscp));
        Ok(Self(map))
    }
}

/// None for `default`. The numbers are below `keys` and `values`.
fn pairs(
    text: &str,
    keys: u8,
    values: u8,
    invalid: fn(Box<str>) -> InvalidClassMap,
) -> Result<Vec<(u8, u8)>, InvalidClassMap> {
    let mut pairs: Vec<(u8, u8)> = Vec::new();
    if text == "default" {
        return Ok(pairs);
    }
    for word in text.split(',') {
        let pair = word.split_once('=');
        let pair = pair.and_then(|(key, value)| Some((number(key, keys)?, number(value, values)?)));
        let (key, value) = pair.ok_or_else(|| invalid(word.into()))?;
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(InvalidClassMap::Twice(key));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// A number below `end`.
fn number(text: &str, end: u8) -> Option<u8> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_number && *number < end)
}

impl fmt::Display for DscpMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_pairs(f, DSCPS, |dscp| self.0.get(dscp))
    }
}

impl fmt::Display for TcMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_pairs(f, TCS, |tc| self.0.get(tc))
    }
}

fn write_pairs(f: &mut fmt::Formatter<'_>, keys: u8, get: impl Fn(u8) -> Option<u8>) -> fmt::Result {
    let mut comma = "";
    for (key, value) in (0..keys).filter_map(|key| Some((key, get(key)?))) {
        write!(f, "{comma}{key}={value}")?;
        comma = ",";
    }
    match comma {
        "" => f.write_str("default"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_in_order() {
        for (text, shown) in [
            ("46=5,34=4,0=0", "0=0,34=4,46=5"),
            ("63=7", "63=7"),
            ("default", "default"),
        ] {
            let map: DscpMap = text.parse().unwrap();
            assert_eq!(
                (map.to_string(), map.is_default()),
                (shown.to_owned(), shown == "default")
            );
            assert_eq!(shown.parse(), Ok(map));
        }
        for (text, shown) in [("5=46,0=0", "0=0,5=46"), ("7=63", "7=63"), ("default", "default")] {
            let map: TcMap = text.parse().unwrap();
            assert_eq!(
                (map.to_string(), map.is_default()),
                (shown.to_owned(), shown == "default")
            );
            assert_eq!(shown.parse(), Ok(map));
        }
    }

    #[test]
    fn an_error_quotes_the_pair_that_is_wrong() {
        for (text, quoted) in [
            ("", ""),
            ("46", "46"),
            ("46=", "46="),
            ("=5", "=5"),
            ("64=5", "64=5"),
            ("46=8", "46=8"),
            ("0=0,", ""),
            ("+1=1", "+1=1"),
            ("1 =1", "1 =1"),
            ("1=1=1", "1=1=1"),
            ("46=5,default", "default"),
            ("256=1", "256=1"),
        ] {
            let error = text.parse::<DscpMap>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{quoted}` is not DSCP=TC: write 0 to 63, `=` and 0 to 7")),
                "{error}"
            );
        }
        for text in ["8=1", "1=64", "46=5"] {
            let error = text.parse::<TcMap>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}` is not TC=DSCP: write 0 to 7, `=` and 0 to 63")),
                "{error}"
            );
        }
        assert_eq!(
            "46=5,46=4".parse::<DscpMap>().unwrap_err().to_string(),
            "46 is mapped twice"
        );
    }
}
