//! G.711: 8 bits a sample at 8 kHz, roughly logarithmic. Tables are built at compile time from the rules.

pub mod alaw;
pub mod ulaw;

#[cfg(test)]
fn crc(bytes: impl IntoIterator<Item = u8>) -> u32 {
    crc32fast::hash(&bytes.into_iter().collect::<Vec<u8>>())
}
