//! The first look at a batch's file: how many lines it has, who may be asked, and whether there is any use in it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Batches;
use super::line::{Judge, Wrong, wrong};
use super::note::{Begun, Made, Problem};
use crate::files::lines::Lines;

/// Problems that are told of a file that cannot be used.
const PROBLEMS: usize = 100;
/// A replica that has just started does not know yet what its engines serve.
const YOUNG: Duration = Duration::from_millis(50);

impl Batches {
    /// Reads the whole file once.
    ///
    /// # Errors
    /// `Err(Ok)`: what is wrong with all of it. `Err(Err)`: it could not be read now, in words.
    pub(super) async fn begin(&self, made: &Made) -> Result<Begun, Result<Vec<Problem>, String>> {
        while self.0.work.fleet().is_new().is_some() {
            tokio::time::sleep(YOUNG).await;
        }
        let Some(mut lines) = self.lines(made).await.map_err(Err)? else {
            return Err(Ok(vec![gone()]));
        };
        let mut judge = Judge::new(&made.endpoint);
        let (mut models, mut problems) = (BTreeSet::new(), Vec::new());
        let (mut total, mut good) = (0, false);
        while let Some(line) = lines.next().await.map_err(|error| Err(error.to_string()))? {
            total += 1;
            let most = self.0.settings.max_lines;
            if total > most {
                let message = format!(
                    "the file has more than {most} requests, which is the most that a batch may have"
                );
                return Err(Ok(vec![problem("too_many_requests", message, Some(line.number))]));
            }
            let judged = judge.judge(line, |model| {
                self.may_ask(made, model)?;
                models.insert(model.to_owned());
                Ok(())
            });
            match judged.asks {
                Ok(_) => good = true,
                Err(Wrong { code, message }) if problems.len() < PROBLEMS => {
                    problems.push(problem(code, message, Some(judged.number)));
                }
                Err(_) => {}
            }
        }
        if total == 0 {
            return Err(Ok(vec![problem("empty_file", "the file has no request".to_owned(), None)]));
        }
        if !good {
            return Err(Ok(problems));
        }
        Ok(Begun { at: self.now(), total, models: models.into_iter().collect() })
    }

    /// The lines of its file, unless that is gone.
    pub(super) async fn lines(&self, made: &Made) -> Result<Option<Lines>, String> {
        let files = &self.0.files;
        let tenant = made.tenant.as_deref();
        // Its time does not run out while the batch needs it.
        let found = files.find_old(tenant, &made.input).await.map_err(|error| error.to_string())?;
        let Some(file) = found else { return Ok(None) };
        match files.lines(&file, self.0.max_line).await {
            Ok(lines) => Ok(Some(lines)),
            Err(crate::files::Error::Gone(_)) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether lines of this batch may ask a model, now.
    fn may_ask(&self, made: &Made, model: &str) -> Result<(), Wrong> {
        let fleet = self.0.work.fleet();
        let tenant = fleet.settings().tenants.iter().find(|one| Some(&one.name) == made.tenant.as_ref());
        if tenant.is_some_and(|one| !one.models.is_empty() && !one.models.iter().any(|one| one == model)) {
            return Err(wrong(
                "model_forbidden",
                format!("body.model: this key may not use the model {model:?}"),
            ));
        }
        if !fleet.serves(model) {
            return Err(unknown(model));
        }
        Ok(())
    }
}

/// A model that nobody serves.
pub(super) fn unknown(model: &str) -> Wrong {
    wrong("model_not_found", format!("body.model: {model:?} does not exist, or this key may not use it"))
}

/// The file of a batch was taken from the shelf before its lines were read.
pub(super) fn gone() -> Problem {
    problem("input_file_gone", "the input file was gone before this was read".to_owned(), None)
}

fn problem(code: &str, message: String, line: Option<u64>) -> Problem {
    Problem { code: code.to_owned(), message, line }
}
