//! Builds under way, by the names that their clients give them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_engine::building::{Built, CancellationToken};
use tokio::sync::{Notify, oneshot};
use tonic::Status;

use super::caches::CacheSource;
use super::progress::Progress;

/// How long a call waits for the build that it names.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long, and how many, builds that have ended are remembered.
const ENDED: Duration = Duration::from_secs(10);
const MOST_ENDED: usize = 64;
/// The results that one build may keep.
const RESULTS: usize = 64;
const NAME: usize = 256;

/// All builds. A cheap clone.
#[derive(Clone, Default)]
pub(super) struct Jobs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    running: Mutex<HashMap<String, Arc<Job>>>,
    /// Builds that have just ended, or did not begin: clients may ask only now what they told.
    ended: Mutex<VecDeque<(String, Progress)>>,
    changed: Notify,
}

/// What a frontend came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// The image, unless the frontend only told something.
    pub(super) built: Option<Arc<Built>>,
    pub(super) metadata: BTreeMap<String, Vec<u8>>,
}

/// What a client says of a build before the frontend hears of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// What the client allows the build.
    pub(super) entitlements: Vec<String>,
    /// Where caches of other builders are.
    pub(super) cache_from: Vec<CacheSource>,
    /// No file is younger than the build argument `SOURCE_DATE_EPOCH` says, if it is given.
    pub(super) rewrites_times: bool,
}

/// One build.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) session: String,
    pub(super) terms: Terms,
    pub(super) progress: Progress,
    /// RFC 3339.
    pub(super) created: String,
    /// What the client asks of the frontend, once it does.
    options: Mutex<HashMap<String, String>>,
    /// Set when nobody wants it any more.
    pub(super) cancel: CancellationToken,
    results: Mutex<HashMap<String, Arc<Built>>>,
    returned: Mutex<Option<oneshot::Sender<Result<Outcome, Status>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// Begins a build. It is forgotten, and cancelled, when what is returned is dropped.
    pub(super) fn open(&self, name: &str, session: &str, terms: Terms) -> Result<Opened, Status> {
        if name.is_empty() || name.len() > NAME {
            return Err(Status::invalid_argument("a build needs a short name"));
        }
        let (sender, returned) = oneshot::channel();
        let job = Arc::new(Job {
            name: name.to_owned(),
            session: session.to_owned(),
            terms,
            progress: Progress::default(),
            created: jiff::Timestamp::now().to_string(),
            options: Mutex::default(),
            cancel: CancellationToken::new(),
            results: Mutex::default(),
            returned: Mutex::new(Some(sender)),
        });
        {
            let mut running = lock(&self.0.running);
            if running.contains_key(name) {
                return Err(Status::already_exists(format!(
                    "the build {name} runs already"
                )));
            }
            running.insert(name.to_owned(), Arc::clone(&job));
        }
        self.0.changed.notify_waiters();
        Ok(Opened {
            job,
            returned,
            jobs: self.clone(),
        })
    }

    /// Finds a build, which may be about to begin.
    pub(super) async fn find(&self, name: &str) -> Result<Arc<Job>, Status> {
        let found = async {
            loop {
                let changed = self.0.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                match self.get(name) {
                    Some(job) => return Some(job),
                    // It never begins again.
                    None if self.ended(name).is_some() => return None,
                    None => changed.await,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        let found = found.ok().flatten();
        found.ok_or_else(|| Status::not_found(format!("no such build {name}")))
    }

    /// Says that a build does not begin, so that nobody waits for it.
    pub(super) fn refuse(&self, name: &str) {
        let progress = Progress::default();
        progress.end();
        self.remember(name, progress);
        self.0.changed.notify_waiters();
    }

    fn ended(&self, name: &str) -> Option<Progress> {
        let ended = lock(&self.0.ended);
        let (_, progress) = ended.iter().find(|(ended, _)| ended == name)?;
        Some(progress.clone())
    }

    /// Finds what a build tells that runs, is about to, or has just ended.
    pub(super) async fn progress(&self, name: &str) -> Result<Progress, Status> {
        if let Some(progress) = self.ended(name) {
            return Ok(progress);
        }
        match self.find(name).await {
            Ok(job) => Ok(job.progress.clone()),
            // Meanwhile it may have ended, or was refused.
            Err(error) => self.ended(name).ok_or(error),
        }
    }

    fn remember(&self, name: &str, progress: Progress) {
        {
            let mut ended = lock(&self.0.ended);
            ended.push_back((name.to_owned(), progress));
            if ended.len() > MOST_ENDED {
                ended.pop_front();
            }
        }
        let (jobs, name) = (self.clone(), name.to_owned());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(ENDED).await;
                lock(&jobs.0.ended).retain(|(ended, _)| *ended != name);
            });
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Job>> {
        lock(&self.0.running).get(name).cloned()
    }

    pub(super) fn names(&self) -> Vec<String> {
        lock(&self.0.running).keys().cloned().collect()
    }
}

/// A build that somebody waits for.
pub(super) struct Opened {
    pub(super) job: Arc<Job>,
    pub(super) returned: oneshot::Receiver<Result<Outcome, Status>>,
    jobs: Jobs,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.job.cancel.cancel();
        self.job.progress.end();
        self.jobs
            .remember(&self.job.name, self.job.progress.clone());
        lock(&self.jobs.0.running).remove(&self.job.name);
    }
}

impl Job {
    /// Notes what is asked of the frontend, for the history.
    pub(super) fn ask(&self, options: &HashMap<String, String>) {
        lock(&self.options).clone_from(options);
    }

    pub(super) fn options(&self) -> HashMap<String, String> {
        lock(&self.options).clone()
    }

    /// Keeps a result, and names it.
    pub(super) fn keep(&self, built: Arc<Built>) -> Result<String, Status> {
        let mut results = lock(&self.results);
        if results.len() >= RESULTS {
            return Err(Status::resource_exhausted(
                "this build has too many results",
            ));
        }
        let name = format!("{}-{}", self.name, results.len());
        results.insert(name.clone(), built);
        Ok(name)
    }

    pub(super) fn result(&self, name: &str) -> Result<Arc<Built>, Status> {
        let found = lock(&self.results).get(name).cloned();
        found.ok_or_else(|| Status::not_found(format!("no such ref: {name}")))
    }

    /// Says how the client's part of the build ended. Only the first word counts.
    pub(super) fn finish(&self, outcome: Result<Outcome, Status>) {
        if let Some(waiting) = lock(&self.returned).take() {
            // Whoever waited may have left.
            let _ = waiting.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_build_that_was_refused_or_has_ended() {
        let jobs = Jobs::default();
        let waiting = jobs.find("refused");
        let refuse = async { jobs.refuse("refused") };
        let (found, ()) = tokio::join!(waiting, refuse);
        assert!(found.is_err());
        let at_once = |name| jobs.find(name).now_or_never();
        assert!(at_once("refused").unwrap().is_err());
        assert!(jobs.progress("refused").now_or_never().unwrap().is_ok());
        drop(jobs.open("ended", "session", Terms::default()).unwrap());
        assert!(at_once("ended").unwrap().is_err());
        assert!(at_once("unknown").is_none());
    }
}
