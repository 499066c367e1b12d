//! A store in memory whose answers get lost: it does what it is told, and says that it did not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// What goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Of what is put under a name that begins so the next answer is lost.
    lose: Mutex<Option<String>>,
}

/// The store.
#[derive(Debug)]
pub(super) struct Forgetful {
    store: InMemory,
    faults: Arc<Faults>,
}

/// What comes of a question.
type Answer<'f, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'f>>;

impl Faults {
    /// Loses the next answer about something that is put under a name that begins like this.
    pub(crate) fn lose(&self, begin: &str) {
        *self.lose.lock() = Some(begin.to_owned());
    }

    /// Whether that has happened, or none was to be lost.
    pub(crate) fn lost(&self) -> bool {
        self.lose.lock().is_none()
    }
}

impl Forgetful {
    pub(super) fn new(faults: Arc<Faults>) -> Self {
        Self { store: InMemory::new(), faults }
    }
}

impl std::fmt::Display for Forgetful {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("forgetful")
    }
}

impl ObjectStore for Forgetful {
    fn put_opts<'s, 'n, 'f>(
        &'s self,
        name: &'n Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Answer<'f, PutResult>
    where
        's: 'f,
        'n: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let done = self.store.put_opts(name, payload, options).await?;
            let lost = self.faults.lose.lock().take_if(|begin| name.as_ref().starts_with(begin.as_str()));
            match lost {
                Some(_) => Err(Error::Generic { store: "forgetful", source: "the answer got lost".into() }),
                None => Ok(done),
            }
        })
    }

    fn put_multipart_opts<'s, 'n, 'f>(
        &'s self,
        name: &'n Path,
        options: PutMultipartOptions,
    ) -> Answer<'f, Box<dyn MultipartUpload>>
    where
        's: 'f,
        'n: 'f,
        Self: 'f,
    {
        self.store.put_multipart_opts(name, options)
    }

    fn get_opts<'s, 'n, 'f>(&'s self, name: &'n Path, options: GetOptions) -> Answer<'f, GetResult>
    where
        's: 'f,
        'n: 'f,
        Self: 'f,
    {
        self.store.get_opts(name, options)
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(names)
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(folder)
    }

    fn list_with_delimiter<'s, 'n, 'f>(&'s self, folder: Option<&'n Path>) -> Answer<'f, ListResult>
    where
        's: 'f,
        'n: 'f,
        Self: 'f,
    {
        self.store.list_with_delimiter(folder)
    }

    fn copy_opts<'s, 'n, 'm, 'f>(
        &'s self,
        from: &'n Path,
        to: &'m Path,
        options: CopyOptions,
    ) -> Answer<'f, ()>
    where
        's: 'f,
        'n: 'f,
        'm: 'f,
        Self: 'f,
    {
        self.store.copy_opts(from, to, options)
    }
}
