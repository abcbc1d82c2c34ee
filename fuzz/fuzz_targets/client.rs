#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::play::run::<mesh_fuzz::subjects::OfClient>(data));
