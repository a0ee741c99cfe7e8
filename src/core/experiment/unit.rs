//! Ids of other types as the text that is hashed.

pub const TEXT_OF_UUID: usize = 36;

/// Room for the text of a uuid or bigint.
pub type Buffer = [u8; TEXT_OF_UUID];

/// Both digits of every byte: one look instead of two.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Lower-case, hyphenated. Places are constants, so that nothing is left of the loop.
#[inline]
pub fn uuid_text<'a>(bytes: &[u8; 16], buffer: &'a mut Buffer) -> &'a [u8] {
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    *buffer = [b'-'; TEXT_OF_UUID];
    for (place, byte) in PLACES.into_iter().zip(bytes) {
        buffer[place..place + 2].copy_from_slice(&HEX[usize::from(*byte)]);
    }
    buffer
}

/// Decimal, without leading zeros.
#[inline]
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
