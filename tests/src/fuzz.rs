//! Properties of reading a capture that must hold for any file: `fuzz/` and the tests call this function, and it panics
//! if one does not.

use crate::capture::{CaptureError, Captured, frames};

/// Checks these properties. The frames are in the file one after the other; a shortened file has the same frames up to
/// its end; and when written again they read the same.
pub fn pcapng(file: &[u8]) {
    let read = match frames(file) {
        Ok(read) => read,
        Err(error) => return check_error(&error, file.len()),
    };
    let mut end = 0;
    for frame in &read {
        assert!(
            frame.offset >= end,
            "record {} begins before the last one ends",
            frame.offset
        );
        let begin = (frame.bytes.as_ptr() as usize).wrapping_sub(file.as_ptr() as usize);
        assert!(begin > frame.offset && begin + frame.bytes.len() <= file.len());
        end = begin + frame.bytes.len();
    }
    let cut = file.len() / 2;
    match frames(&file[..cut]) {
        Ok(first) => assert_eq!(first[..], read[..first.len()]),
        Err(error) => check_error(&error, cut),
    }
    let written = pcap_of(&read);
    let again = frames(&written).expect("what was written can be read");
    let contents = |frames: &[Captured<'_>]| -> Vec<_> {
        let frames = frames.iter();
        frames.map(|frame| (frame.bytes.to_vec(), frame.original_len)).collect()
    };
    assert_eq!(contents(&again), contents(&read));
}

fn check_error(error: &CaptureError, file_len: usize) {
    match error {
        CaptureError::Unreadable { .. } => panic!("no file was opened: {error}"),
        CaptureError::Unknown { start } => assert!(start.len() <= 4),
        CaptureError::LinkType { offset, .. }
        | CaptureError::Cut { offset, .. }
        | CaptureError::Malformed { offset, .. }
        | CaptureError::NoInterface { offset, .. } => assert!(*offset <= file_len, "{error}"),
    }
}

/// A pcap file of these frames.
fn pcap_of(frames: &[Captured<'_>]) -> Vec<u8> {
    let words = |words: [usize; 4]| words.map(|word| (word as u32).to_le_bytes()).concat();
    let mut file = words([0xa1b2_c3d4, 0x0004_0002, 0, 0]);
    file.extend([0xffff, 1_u32].map(u32::to_le_bytes).concat());
    for frame in frames {
        file.extend(words([0, 0, frame.bytes.len(), frame.original_len]));
        file.extend(frame.bytes);
    }
    file
}
