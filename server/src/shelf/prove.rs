//! Whether a shelf keeps its promises, asked before it is trusted: some stores that speak S3 take a condition and ignore it.

use bytes::Bytes;

use super::{Name, Shelf};

impl Shelf {
    /// Puts something under a name of its own, and takes it away again.
    ///
    /// # Errors
    /// Which promise is not kept, in words.
    pub async fn prove(&self, once: &str) -> Result<(), String> {
        let name = Name::new(format!("proof/{once}"))?;
        let proved = self.try_out(&name).await;
        let gone = self.delete(&name).await.map_err(|error| error.to_string());
        proved.and(gone)
    }

    async fn try_out(&self, name: &Name) -> Result<(), String> {
        let folder = Name::new(name.folder())?;
        let said = |error: super::Error| error.to_string();
        if !self.put_new(name, Bytes::from_static(b"first")).await.map_err(said)? {
            return Err(format!("{name} is there already: somebody else is trying"));
        }
        if self.put_new(name, Bytes::from_static(b"second")).await.map_err(said)? {
            let why = "a name was given twice: the store ignores `If-None-Match: *`";
            return Err(format!("{why}, and batches need it; take one that knows conditional writes"));
        }
        if self.get(name, 5).await.map_err(said)? != Some(Bytes::from_static(b"first")) {
            return Err("what is read is not what was written".to_owned());
        }
        let listed = self.list(&folder, None, 1_000).await.map_err(said)?;
        if !listed.iter().any(|item| item.name == *name) {
            return Err("what was written is not listed".to_owned());
        }
        Ok(())
    }
}
