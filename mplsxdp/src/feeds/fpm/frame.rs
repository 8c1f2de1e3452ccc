//! Frames: version, type, length, content.

/// Bytes of a frame before its content: u8 version, u8 type, u16 length of the whole frame, big-endian.
const HEADER: usize = 4;
const VERSION: u8 = 1;

/// What a frame contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Netlink = 1,
    Protobuf = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    pub kind: Kind,
    pub content: &'a [u8],
}

/// The bytes where a frame must begin are not a frame header, and nothing says where the next frame begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FramingLost {
    #[error("a frame has version {0}; must be 1")]
    Version(u8),
    #[error("a frame has type {0}; must be 1 (netlink) or 2 (protobuf)")]
    Kind(u8),
    #[error("a frame has length {0}; must be 4 or more")]
    Length(u16),
}

/// The first frame of `bytes`, and the rest; `None` if it is not complete yet. Returns an error as soon as the bytes
/// show it.
pub fn take_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, FramingLost> {
    match bytes {
        [version, ..] if *version != VERSION => return Err(FramingLost::Version(*version)),
        [_, kind, ..] if ![1, 2].contains(kind) => return Err(FramingLost::Kind(*kind)),
        _ => {}
    }
    let Some(&[_, kind, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([high, low]);
    if usize::from(length) < HEADER {
        return Err(FramingLost::Length(length));
    }
    let Some((frame, rest)) = bytes.split_at_checked(length.into()) else {
        return Ok(None);
    };
    let kind = if kind == 1 { Kind::Netlink } else { Kind::Protobuf };
    let content = frame.get(HEADER..).unwrap_or_default();
    Ok(Some((Frame { kind, content }, rest)))
}

/// Appends a frame to `buffer`. The content is at most 65,531 bytes.
pub fn write_frame(frame: Frame<'_>, buffer: &mut Vec<u8>) {
    let length = u16::try_from(HEADER + frame.content.len()).unwrap_or(u16::MAX);
    buffer.extend([VERSION, frame.kind as u8]);
    buffer.extend(length.to_be_bytes());
    buffer.extend(frame.content);
}
