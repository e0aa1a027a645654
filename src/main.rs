//! The `captcha-worker` command.
fn main() {}
