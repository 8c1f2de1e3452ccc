//! The labels to which a port is restricted, as people write them: `100-199,300`.

use std::fmt;
use std::str::FromStr;

use mplsxdp_common::abi::{LabelRange, MAX_LABEL_RANGES};
use mplsxdp_common::wire::Label;

use crate::text::serde_as_text;

/// At least one range, in order; no two overlap or touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LabelRanges {
    ranges: [LabelRange; MAX_LABEL_RANGES],
    count: usize,
}

serde_as_text!(LabelRanges);

/// The labels of the frames that a port accepts: `all`, or ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AcceptLabels(pub Option<LabelRanges>);

serde_as_text!(AcceptLabels);

impl FromStr for AcceptLabels {
    type Err = InvalidLabelRanges;

    fn from_str(text: &str) -> Result<Self, InvalidLabelRanges> {
        match text {
            "all" => Ok(Self(None)),
            ranges => ranges.parse().map(|ranges| Self(Some(ranges))),
        }
    }
}

impl fmt::Display for AcceptLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("all"),
            Some(ranges) => ranges.fmt(f),
        }
    }
}

/// Why a text is not a list of ranges.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidLabelRanges {
    #[error(
        "`{0}` is not a range of labels: write one label, or the first and the last, such as 100-199; several are separated by commas"
    )]
    Range(String),
    #[error("`{0}` is not a range of labels that have routes: those are 16 to {max}", max = Label::MAX)]
    Label(String),
    #[error("`{0}` ends before it begins")]
    Backward(String),
    #[error("{0} ranges of labels; a port can have {MAX_LABEL_RANGES}")]
    TooMany(usize),
}

impl LabelRanges {
    pub fn as_slice(&self) -> &[LabelRange] {
        self.ranges.get(..self.count).unwrap_or(&self.ranges)
    }
}

impl FromStr for LabelRanges {
    type Err = InvalidLabelRanges;

    fn from_str(text: &str) -> Result<Self, InvalidLabelRanges> {
        let mut given = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        given.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in given {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        let mut ranges = [LabelRange::NONE; MAX_LABEL_RANGES];
        let count = merged.len();
        if count > ranges.len() {
            return Err(InvalidLabelRanges::TooMany(count));
        }
        for (range, (first, last)) in ranges.iter_mut().zip(merged) {
            *range = LabelRange::new(Label::from_low_bits(first), Label::from_low_bits(last));
        }
        Ok(Self { ranges, count })
    }
}

/// The first and the last label of a range.
fn range(text: &str) -> Result<(u32, u32), InvalidLabelRanges> {
    let label = |word: &str| {
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| word.parse::<u32>().unwrap_or(u32::MAX));
        number.ok_or_else(|| InvalidLabelRanges::Range(text.to_owned()))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (label(first)?, label(last)?);
    let labels = Label::FIRST_ORDINARY.get()..=Label::MAX.get();
    if !labels.contains(&first) || !labels.contains(&last) {
        return Err(InvalidLabelRanges::Label(text.to_owned()));
    }
    if last < first {
        return Err(InvalidLabelRanges::Backward(text.to_owned()));
    }
    Ok((first, last))
}

impl fmt::Display for LabelRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.as_slice().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (range.first(), range.last()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_merged() {
        for (text, shown) in [
            ("100", "100"),
            ("16-1048575", "16-1048575"),
            ("300,100-199", "100-199,300"),
            ("100-199,200,150-160,400-500,450-600", "100-200,400-600"),
            ("16,18,20,22,24,26,28,30,31", "16,18,20,22,24,26,28,30-31"),
        ] {
            let ranges: LabelRanges = text.parse().unwrap();
            assert_eq!(ranges.to_string(), shown);
            assert_eq!(shown.parse(), Ok(ranges));
        }
    }

    #[test]
    fn an_error_quotes_the_range_that_is_wrong() {
        let error = |text: &str| text.parse::<LabelRanges>().unwrap_err().to_string();
        for text in ["", "100,", "100-", "-100", "+100", "100-199-300", "1 00", "all"] {
            assert!(error(text).contains("is not a range of labels: write"), "{text}");
        }
        for text in ["15", "0-100", "100-1048576", "99999999999"] {
            assert!(error(text).contains("those are 16 to 1048575"), "{text}");
        }
        assert_eq!(error("50,200-100"), "`200-100` ends before it begins");
        assert_eq!(
            error("16,18,20,22,24,26,28,30,32"),
            "9 ranges of labels; a port can have 8"
        );
    }
}
