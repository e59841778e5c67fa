//! Files and streams that bytes go to.

use std::fs::File;
use std::io::{self, Write};

use super::Pending;

/// A file that gets its name later, or a stream.
pub(crate) struct Destination {
    writer: Writer,
    pending: Option<Pending>,
}

enum Writer {
    File(File),
    Stream(Box<dyn Write + Send>),
}

impl Destination {
    pub(crate) fn file(file: File, pending: Option<Pending>) -> Self {
        Self { writer: Writer::File(file), pending }
    }

    pub(crate) fn stream(writer: Box<dyn Write + Send>) -> Self {
        Self { writer: Writer::Stream(writer), pending: None }
    }

    /// Sees to it that everything is on disk, or with whoever reads the stream.
    pub(crate) fn finish(mut self) -> io::Result<Option<Pending>> {
        self.flush()?;
        if let Writer::File(file) = &self.writer {
            file.sync_all()?;
        }
        Ok(self.pending)
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Writer::File(file) => file.write(bytes),
            Writer::Stream(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::File(file) => file.flush(),
            Writer::Stream(writer) => writer.flush(),
        }
    }
}
