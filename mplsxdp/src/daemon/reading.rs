//! SIGHUP: the configuration is read again, on a separate thread because a long one takes a while.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::info;

use crate::config::{Config, ConfigError};
use crate::error;

/// Reads the configuration again: the command line, and the config file as it is now.
pub type Reread = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A configuration that is being read.
#[derive(Default)]
pub struct Reading(Option<JoinHandle<Result<Config, ConfigError>>>);

impl Reading {
    pub fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    pub fn begin(&mut self, reread: Option<&Reread>) {
        let Some(reread) = reread.cloned() else {
            info!(
                "SIGHUP: this instance has no config file to read again, so nothing changes; name one with `load --config FILE`"
            );
            return;
        };
        info!("SIGHUP: reading the configuration again");
        self.0 = Some(tokio::task::spawn_blocking(move || reread()));
    }

    /// The configuration, once it is read; never if none is being read. If it cannot be read, the reason.
    pub async fn done(&mut self) -> Result<Box<Config>, String> {
        let Some(reading) = &mut self.0 else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.0 = None;
        match read {
            Ok(Ok(config)) => Ok(Box::new(config)),
            Ok(Err(error)) => Err(error::report(&error)),
            Err(error) => Err(format!("the reader of the configuration has failed: {error}")),
        }
    }
}
