//! Requests by HTTP, one for each connection.

use std::fmt::Write as _;
use std::io::{Read, Write};

use anyhow::{Context as _, Result};

/// The status and the body of the answer.
pub fn get(mut stream: impl Read + Write, path: &str, accept: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("an answer: {answer}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status: {head}"))?;
    let is_chunked = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    Ok((status, if is_chunked { joined(body)? } else { body.to_owned() }))
}

/// The chunks of a body (RFC 9112 section 7.1).
fn joined(mut chunks: &str) -> Result<String> {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).with_context(|| format!("the length of a chunk: {length}"))?;
        let chunk = rest.get(..length).context("a chunk that is cut")?;
        if chunk.is_empty() {
            break;
        }
        body.push_str(chunk);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    Ok(body)
}

/// A text as a part of a query.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => encoded.push(char::from(byte)),
            // Writing to a text does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(joined("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap(), "abcde");
        assert!(joined("9\r\nabc").is_err());
        assert_eq!(encoded("a{b=\"c\"}"), "a%7Bb%3D%22c%22%7D");
    }
}
