//! The demo's story, told by the built programs: every line must be as expected.

use std::process::Command;

use countersign_integration::programs;

#[test]
fn every_line_of_the_demo_is_as_expected() {
    let told = Command::new(programs::cli()).args(["demo", "--once"]).output().unwrap();
    let (story, errors) =
        (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{story}\n{errors}");
    assert!(story.contains("11 of 11 as expected"), "{story}");
    assert!(!story.contains('\u{1b}'), "colour where nobody can see it: {story}");
}
