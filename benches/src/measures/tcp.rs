//! Opaque bytes in bulk: what a gigabyte through both proxies costs, half of it each way, on a few
//! connections at once. The server is a thread of its own on the load's core.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::{Measure, Sample};
use crate::figures::Side;
use crate::machine;
use crate::sidecars::{Make, Opaque};
use crate::stage::Stage;

/// Connections at once; half of them send, half receive.
const CONNECTIONS: u64 = 4;
/// Bytes of one measurement, both ways together.
const BULK_BYTES: u64 = 2_000_000_000;
const CHUNK_BYTES: usize = 64 * 1024;
/// Nobody waits longer for the next byte.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a client asks for first: so many bytes to it, or from it.
const DOWN: u8 = b'd';
const UP: u8 = b'u';
/// What an order takes: the direction and the count.
const ORDER_BYTES: usize = 9;

/// CPU seconds of both proxies per 10^9 bytes, and gigabytes per second.
pub(super) struct Bulk;

impl Measure for Bulk {
    fn name(&self) -> &str {
        "tcp_cpu_per_gb"
    }

    fn sides(&self) -> Vec<Side> {
        [Make::Countersign, Make::Envoy, Make::Haproxy].map(Side::Of).into()
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        match side {
            Side::Of(make) => measure(make, stage),
            Side::Direct => Ok(Vec::new()),
        }
    }
}

fn measure(make: Make, stage: &Stage<'_>) -> Result<Vec<Sample>> {
    let setting = stage.setting;
    let server = serve(setting.cores.load)?;
    let pair = Opaque::start(make, setting, server, |entry| transfer(entry, DOWN, 1000))?;
    let bulk = if stage.plan.quick { BULK_BYTES / 4 } else { BULK_BYTES };
    let each = bulk / CONNECTIONS;
    drive(pair.entry, each / 10)?;
    let (started, before) = (Instant::now(), cpu(&pair)?);
    drive(pair.entry, each)?;
    let (seconds, after) = (started.elapsed().as_secs_f64(), cpu(&pair)?);
    let gigabytes = (each * CONNECTIONS) as f64 / 1e9;
    let spent = after.saturating_sub(before).as_secs_f64();
    Ok(vec![
        Sample::new("tcp_cpu_per_gb", "s", spent / gigabytes),
        Sample::new("tcp_gb_per_s", "GB/s", gigabytes / seconds),
    ])
}

fn cpu(pair: &Opaque) -> Result<Duration> {
    pair.pids().into_iter().map(machine::cpu_time).sum()
}

/// Moves `each` bytes on every connection.
fn drive(entry: SocketAddr, each: u64) -> Result<()> {
    let client = |number| {
        let direction = if number % 2 == 0 { DOWN } else { UP };
        thread::spawn(move || transfer(entry, direction, each))
    };
    let clients: Vec<_> = (0..CONNECTIONS).map(client).collect();
    clients
        .into_iter()
        .try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
}

/// One connection: says what it wants, moves it, and hears that all of it arrived.
fn transfer(entry: SocketAddr, direction: u8, count: u64) -> Result<()> {
    let mut stream = TcpStream::connect(entry)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut order = vec![direction];
    order.extend(count.to_be_bytes());
    stream.write_all(&order)?;
    let moved = match direction {
        DOWN => swallow(&mut stream, count)?,
        _ => pour(&mut stream, count).and_then(|()| acknowledged(&mut stream))?,
    };
    ensure!(moved == count, "{moved} bytes of {count} arrived");
    Ok(())
}

fn acknowledged(stream: &mut TcpStream) -> io::Result<u64> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

fn pour(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let chunk = [b'.'; CHUNK_BYTES];
    let mut left = count;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        stream.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn swallow(stream: &mut TcpStream, count: u64) -> io::Result<u64> {
    let (mut chunk, mut seen) = ([0; CHUNK_BYTES], 0);
    while seen < count {
        match stream.read(&mut chunk)? {
            0 => break,
            read => seen += read as u64,
        }
    }
    Ok(seen)
}

/// Starts the server; it ends with the program.
fn serve(cpu: usize) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let accept = move || {
        if let Err(error) = machine::pin_thread(cpu) {
            eprintln!("countersign-bench: {error:#}");
        }
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its connection; it notices itself.
            thread::spawn(move || answer(stream));
        }
    };
    let name = "bench-bytes".to_owned();
    thread::Builder::new().name(name).spawn(accept).context("could not start the server")?;
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut order = [0; ORDER_BYTES];
    stream.read_exact(&mut order)?;
    let [direction, count @ ..] = order;
    let count = u64::from_be_bytes(count);
    if direction == DOWN {
        return pour(&mut stream, count);
    }
    let seen = swallow(&mut stream, count)?;
    stream.write_all(&seen.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_both_ways() {
        let server = serve(machine::Cores::pick().unwrap().load).unwrap();
        for direction in [DOWN, UP] {
            transfer(server, direction, 300_000).unwrap();
        }
    }
}
