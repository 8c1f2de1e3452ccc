//! Frames as people write them, such as `[100 64][200 64] ip to 10.4.4.2`: [`read`] makes a frame of it, and [`show`]
//! describes a frame in the same words.

mod read;
mod show;

pub use read::{Invalid, read};
pub use show::{inside, packet, show};

/// The grammar, for the help of the command.
pub const GRAMMAR: &str = "\
Frames:
  [to MAC] [from MAC] [vlan VID].. [LABEL [ttl] [tc TC]].. PAYLOAD
                                  labels are in brackets: [100], [100 64], [100 64 tc 5]; the TTL is 64 by default;
                                  the destination MAC address is that of the port by default
Payloads:
  ip to ADDRESS [from ADDRESS] [ttl TTL] [tos TOS] [df]
     [{udp|tcp} [sport PORT] [dport PORT] | icmp [type N] [code N] | proto N] [len BYTES]
                                  an IPv4 or IPv6 packet, by its addresses; a UDP packet by default;
                                  len: of the whole packet
  [cw] ether FRAME                in a pseudowire: a frame, behind a control word (cw)
  type ETHERTYPE [data HEX]       any other protocol, such as type 0x806
  data HEX                        anything beneath labels";

#[cfg(test)]
mod tests {
    use mplsxdp_common::wire::Mac;

    use super::*;
    use crate::slowpath::icmp::checksum;

    const PORT: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn frame(text: &str) -> Vec<u8> {
        read(text, PORT).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn words_make_a_frame() {
        let labelled = frame("[100 64 tc 5][200] ip to 10.4.4.2 from 10.3.3.2 ttl 9 udp sport 1 dport 2 len 28");
        assert_eq!(
            hex::encode(&labelled[..31]),
            "0200000000090200000000018847".to_owned() + "00064a40000c8140" + "4500001c0000000009"
        );
        assert_eq!(hex::encode(&labelled[34..48]), "0a0303020a040402000100020008");
        // Both checksums are right (RFC 1071).
        assert_eq!(checksum(0, &labelled[22..42]), 0);
        assert_eq!(checksum(0x0a03 + 0x0302 + 0x0a04 + 0x0402 + 8 + 17, &labelled[42..]), 0);
        assert_eq!(labelled.len(), 14 + 8 + 28);
        let v6 = frame("to 02:00:00:00:00:05 vlan 7 ip to fd00::1 icmp");
        assert_eq!(hex::encode(&v6[..20]), "0200000000050200000000018100000786dd6000");
        let pseudowire = frame("[300] cw ether vlan 9 type 0x806 data 0001");
        assert_eq!(
            hex::encode(&pseudowire[12..]),
            "88470012c140".to_owned() + "00000000" + "020000000002020000000001" + "81000009" + "08060001"
        );
    }

    /// What is shown is read as the same frame.
    #[test]
    fn frames_are_shown_in_the_words_that_make_them() {
        for text in [
            "[100 64] ip to 10.4.4.2 from 192.0.2.1 ttl 64 udp sport 49152 dport 33434 len 60",
            "vlan 7 [100 64][7 63][12345 0] ip to fd00::2 from fd00::1 ttl 1 tos 184 tcp sport 1 dport 2 len 100",
            "[16 1 tc 7] ip to 10.4.4.2 from 10.3.3.2 ttl 255 tos 192 df icmp type 8 code 0 len 60",
            "vlan 100 vlan 10 ip to 10.4.4.2 from 192.0.2.1 ttl 64 proto 89 len 52",
            "type 0x806 data 0001",
            "[300 255] cw ether to 02:00:00:00:00:02 from 02:00:00:00:00:01 ip to 10.4.4.2 from 192.0.2.1 ttl 64 udp sport 49152 \
             dport 33434 len 60",
            "[300 255] data ffff",
        ] {
            let made = frame(text);
            assert_eq!(inside(&made), text);
            assert_eq!(frame(&show(&made)), made);
        }
    }

    #[test]
    fn any_bytes_can_be_shown() {
        for len in 0..80 {
            for byte in [0, 0x45, 0x60, 0x81, 0x88, 0xff] {
                show(&vec![byte; len]);
                for ethertype in [0x0800_u16, 0x86dd, 0x8847, 0x8100] {
                    let frame = [&[2; 12], &ethertype.to_be_bytes()[..], &vec![byte; len]].concat();
                    show(&frame);
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "the frame ends where a label such as `[100]`"),
            ("[100]", "the frame ends where `ip to ADDRESS`"),
            (
                "[1048576] ip to 10.4.4.2",
                "`1048576` is not a label, a number from 0 to 1048575",
            ),
            ("[100 256] ip to 10.4.4.2", "`256` is not a TTL"),
            ("[100 tc 8] ip to 10.4.4.2", "`8` is not a traffic class"),
            ("ip from 10.4.4.2", "`ip` needs an address"),
            ("ip to 10.4.4.2 from fd00::1", "different families"),
            (
                "ip to 10.4.4.2 len 27",
                "is too short: the headers of this packet have 28 bytes",
            ),
            ("ip to host", "`host` is not an IP address"),
            ("ip to 10.4.4.2 nonsense", "`nonsense` does not belong"),
            ("to 10.4.4.2 ip", "`10.4.4.2` is not a MAC address"),
            ("type 0x10000", "`0x10000` is not an EtherType"),
            ("[100] data 0", "is not hexadecimal"),
        ] {
            let error = read(text, PORT).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
