//! A mistake made on purpose, behind comparisons that chance alone does not get through: whoever finds it is guided by
//! what its inputs reach.
#![no_main]

use std::hint::black_box;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let &[a, b, c, d, e, ..] = bytes else { return };
    // One after the other, or the compiler makes one comparison of all.
    if black_box(a) == b'q' && black_box(b) == b'u' && black_box(c) == b'o' && black_box(d) == b'r' {
        assert!(black_box(e) != b'a', "the planted mistake");
    }
});
