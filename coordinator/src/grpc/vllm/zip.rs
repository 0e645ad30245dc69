//! A zip of a few files, stored and not compressed (PKWARE's APPNOTE, 4.3 and 4.4).

/// The version that a reader needs for stored files.
const VERSION: u16 = 10;
/// The first day that a zip can name, 1980-01-01.
const DATE: u16 = (1 << 5) | 1;

/// The zip of files, each with its name and content. Sizes of 4 GiB or more do not fit.
pub(super) fn stored(files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let mut zip = Vec::with_capacity(files.iter().map(|(_, content)| content.len() + 256).sum());
    let mut directory = Vec::new();
    for (name, content) in files {
        let at = u32::try_from(zip.len()).ok()?;
        let entry = entry(name, content)?;
        zip.extend_from_slice(b"PK\x03\x04");
        zip.extend_from_slice(&entry);
        zip.extend_from_slice(name.as_bytes());
        zip.extend_from_slice(content);
        directory.extend_from_slice(b"PK\x01\x02");
        directory.extend_from_slice(&VERSION.to_le_bytes());
        directory.extend_from_slice(&entry);
        // No comment; disk 0; no attributes.
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&at.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let count = u16::try_from(files.len()).ok()?;
    let (at, bytes) = (u32::try_from(zip.len()).ok()?, u32::try_from(directory.len()).ok()?);
    zip.append(&mut directory);
    zip.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    zip.extend_from_slice(&[count.to_le_bytes(), count.to_le_bytes()].concat());
    zip.extend_from_slice(&[bytes.to_le_bytes(), at.to_le_bytes()].concat());
    zip.extend_from_slice(&[0; 2]);
    Some(zip)
}

/// What the file's own header and the directory both say of a file.
fn entry(name: &str, content: &[u8]) -> Option<Vec<u8>> {
    let bytes = u32::try_from(content.len()).ok()?;
    // Neither flags, nor compression, nor a time.
    let head = [VERSION, 0, 0, 0, DATE].map(u16::to_le_bytes).concat();
    let sizes = [crc32(content), bytes, bytes].map(u32::to_le_bytes).concat();
    let name_bytes = u16::try_from(name.len()).ok()?.to_le_bytes();
    Some([&head[..], &sizes, &name_bytes, &[0; 2]].concat())
}

const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut byte = 0;
    while byte < table.len() {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { (rest >> 1) ^ 0xedb8_8320 } else { rest >> 1 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
}

fn crc32(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ CRC_TABLE[usize::from(low ^ byte)]
    };
    !bytes.iter().fold(u32::MAX, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn sizes_and_places_are_written_where_readers_look_for_them() {
        let zip = stored(&[("a", b"first"), ("bc", b"")]).unwrap();
        assert_eq!(&zip[..4], b"PK\x03\x04");
        let end = zip.len() - 22;
        let word = |at: usize| u32::from_le_bytes(zip[at..at + 4].try_into().unwrap()) as usize;
        let (bytes, at) = (word(end + 12), word(end + 16));
        assert_eq!((&zip[at..at + 4], at + bytes), (&b"PK\x01\x02"[..], end));
        assert_eq!((word(at + 20), word(at + 24), word(at + 42)), (5, 5, 0));
        let second = at + 46 + 1;
        assert_eq!(&zip[second..second + 4], b"PK\x01\x02");
        assert_eq!(&zip[word(second + 42)..][..4], b"PK\x03\x04");
    }
}
