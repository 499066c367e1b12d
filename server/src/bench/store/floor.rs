//! The floor: a socket that reads requests of known length and writes answers of known length, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use super::stream::{KEYS, Work, get, set};

/// Serves one connection of this work, without looking at what it is sent, on a thread of its own.
pub(super) fn serve(work: Work) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        // The client leaves when it is done: that is the end.
        let _ = converse(&listener, work);
    });
    Ok(address)
}

fn converse(listener: &TcpListener, work: Work) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut values: Vec<Vec<u8>> = (0..KEYS).map(|_| vec![b'x'; set(0, work.size).len()]).collect();
    for value in &mut values {
        stream.read_exact(value)?;
        stream.write_all(b"+OK\r\n")?;
    }
    // A pipeline of small requests is read together, as it was sent.
    let together = work.together();
    let mut questions = vec![0; get(0).len() * together];
    let mut large = vec![0; values[0].len() * together];
    let answers = vec![b'x'; work.answered() * together];
    for at in 0.. {
        // One at a time they are read to where they stay, and written from there.
        let value = &mut values[at % KEYS];
        match (work.write, together) {
            (false, _) => stream.read_exact(&mut questions)?,
            (true, 1) => stream.read_exact(value)?,
            (true, _) => stream.read_exact(&mut large)?,
        }
        match (work.write, together) {
            (false, 1) => stream.write_all(&value[..work.answered()])?,
            _ => stream.write_all(&answers)?,
        }
    }
    Ok(())
}
