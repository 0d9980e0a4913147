//! Two encodings that the suite takes apart itself.

/// Renames function exports of a module, so that the host finds none of these names.
///
/// In the binary an export is its name's length, the name, and 0 for a function; a name of the same length fits in
/// its place.
///
/// # Panics
/// If the module does not export one of them: hiding nothing would prove nothing.
#[must_use]
pub fn hide_exports(module: &[u8], names: &[&str]) -> Vec<u8> {
    let mut module = module.to_vec();
    for name in names {
        let length = u8::try_from(name.len()).expect("a short name");
        let entry: Vec<u8> = [&[length], name.as_bytes(), &[0]].concat();
        let at = module.windows(entry.len()).position(|window| window == entry);
        let at = at.unwrap_or_else(|| panic!("the module exports no {name}"));
        module[at + 1] = b'X';
    }
    module
}

/// In the order of the bits of `response.flags`.
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// `response.flags` as an access log shows them: names in the order of their bits, `-` for none.
#[must_use]
pub fn flag_names(bits: i64) -> String {
    let names: Vec<&str> = (0..63)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(|bit: usize| FLAGS.get(bit).copied().unwrap_or("unknown"))
        .collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_hidden_and_nothing_else_moves() {
        let module = b"\x03abc\x00\x01\x05proxy\x00\x02";
        assert_eq!(hide_exports(module, &["proxy"]), b"\x03abc\x00\x01\x05Xroxy\x00\x02");
    }

    #[test]
    #[should_panic(expected = "exports no done")]
    fn hiding_what_is_not_there_fails() {
        let _ = hide_exports(b"", &["done"]);
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(flag_names(0), "-");
        assert_eq!(flag_names(0b100_0100), "UT,UC");
        assert_eq!(flag_names(1 << 23), "UPE");
    }
}
