//! A client that doesn't take its answer is cut off: hyper has no such timeout of its own.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// A connection whose other side may hold an answer up for so long: from the first byte that it doesn't take until the
/// whole answer, or the part of it that there is so far, is with it. That it takes a byte now and then gains it nothing.
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Made when it is first needed: most clients read.
    until: Option<Pin<Box<Sleep>>>,
    held_up: bool,
}

impl<S> Patient<S> {
    /// A connection that isn't held up yet.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, until: None, held_up: false }
    }

    /// `result`, unless the other side has held it up for too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            return result;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        if !self.held_up {
            self.held_up = true;
            until.as_mut().reset(Instant::now() + self.patience);
        }
        match until.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.judge(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        // It is asked to flush when it has been given everything.
        self.held_up &= result.is_pending();
        self.judge(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn who_reads_nothing_is_cut_off_in_time() {
        const PATIENCE: Duration = Duration::from_millis(200);
        let (ours, _theirs) = duplex(1_000);
        let mut ours = Patient::new(ours, PATIENCE);
        ours.write_all(&[0; 1_000]).await.unwrap();
        ours.flush().await.unwrap();
        // Nothing was held up until now, however long that took.
        tokio::time::sleep(PATIENCE * 2).await;
        let waited = Instant::now();
        let error = ours.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(waited.elapsed() >= PATIENCE, "{:?}", waited.elapsed());
    }

    #[tokio::test]
    async fn a_byte_now_and_then_gains_nothing() {
        let (ours, mut theirs) = duplex(1_000);
        let mut ours = Patient::new(ours, Duration::from_millis(200));
        let reading = tokio::spawn(async move {
            let mut read = 0;
            while theirs.read_u8().await.is_ok() {
                read += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            read
        });
        assert_eq!(ours.write_all(&[0; 100_000]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(ours);
        assert!(reading.await.unwrap() > 0, "it did read");
    }

    #[tokio::test]
    async fn who_takes_each_answer_in_time_stays_for_good() {
        const PATIENCE: Duration = Duration::from_millis(1_500);
        let (ours, mut theirs) = duplex(1_000);
        let mut ours = Patient::new(ours, PATIENCE);
        let reading = tokio::spawn(async move {
            let mut bytes = vec![0; 2_000];
            for _ in 0..20 {
                tokio::time::sleep(PATIENCE / 10).await;
                theirs.read_exact(&mut bytes).await.unwrap();
            }
        });
        let started = Instant::now();
        for _ in 0..20 {
            ours.write_all(&[0; 2_000]).await.unwrap();
            ours.flush().await.unwrap();
        }
        reading.await.unwrap();
        assert!(started.elapsed() > PATIENCE, "longer than one answer may take");
    }
}
