//! Answers of an API server to a `TokenReview`.
#![no_main]

use countersign_proxy::gateway::callers::unproven::token_review;

libfuzzer_sys::fuzz_target!(|answer: &[u8]| {
    let _ = token_review(answer, "countersign.dev/prod.example.com");
});
