//! Properties of the codec that must hold for any bytes.

use super::message::{Header, Message, Tlv};

/// A message that can be read is written again as one that reads the same.
pub fn lsp_ping(data: &[u8]) {
    let Some((header, rest)) = Header::read(data) else {
        return;
    };
    let Ok(tlvs) = Tlv::read_all(rest) else {
        return;
    };
    let message = Message { header, tlvs };
    let mut written = Vec::new();
    message.write(&mut written);
    let (header, rest) = Header::read(&written).expect("a header was written");
    let tlvs = Tlv::read_all(rest).expect("what was written can be read");
    assert_eq!(message, Message { header, tlvs });
    assert!(
        written.len() <= data.len() + 8,
        "{} bytes from {}",
        written.len(),
        data.len()
    );
}
