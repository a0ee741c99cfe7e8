//! Ids of other types as the text that is hashed.

pub const TEXT_OF_UUID: usize = 36;

/// Room for the text of a uuid or bigint.
pub type Buffer = [u8; TEXT_OF_UUID];

/// Lower-case, hyphenated.
pub fn uuid_text<'a>(bytes: &[u8; 16], buffer: &'a mut Buffer) -> &'a [u8] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            buffer[at] = b'-';
            at += 1;
        }
        buffer[at] = HEX[usize::from(byte >> 4)];
        buffer[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    buffer
}

/// Decimal, without leading zeros.
pub fn bigint_text(number: i64, buffer: &mut Buffer) -> &[u8] {
    let mut at = TEXT_OF_UUID;
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_canonical() {
        let mut buffer = [0; TEXT_OF_UUID];
        for number in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(bigint_text(number, &mut buffer), number.to_string().as_bytes());
        }
        let bytes = [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];
        assert_eq!(uuid_text(&bytes, &mut buffer), b"6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    }
}
