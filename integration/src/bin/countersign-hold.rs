//! Opens connections and holds them until it is killed: what a memory test needs in a process of
//! its own, because descriptors are limited per process.
//!
//! `countersign-hold KIND ADDRESS COUNT [CERTIFICATE KEY]`, see `countersign_integration::hold`.

use std::io::Write as _;

use anyhow::Result;
use countersign_integration::hold;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let order = hold::Order::parse(&arguments)?;
    let _held = hold::open(&order).await?;
    println!("{}", hold::HOLDING);
    std::io::stdout().flush()?;
    std::future::pending().await
}
