//! Timeouts and limits.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

use super::authenticator::AuthMode;
use super::message::CLAIMS_MAX;
use crate::session::SESSIONS_MAX;

/// What a message takes beside the batch or chunk in it, at most.
const MESSAGE_OVERHEAD: usize = 16 * 1024;

/// The most sequence numbers of the window: a view change tells of each of them.
const WINDOW_MAX: u64 = 4096;

/// Timeouts and limits of one pBFT group. All replicas must have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PbftConfig {
    /// How replicas prove what they say. Default: signatures.
    pub auth: AuthMode,
    /// Whether clients sign their requests. Without, whoever can send to a replica can ask in anybody's name.
    /// Default: on.
    pub client_signatures: bool,
    /// Requests in one batch, at most. Default: 512.
    pub batch_max_requests: usize,
    /// Bytes in one batch, at most; one longer request still goes alone. Default: 256 KiB.
    pub batch_max_bytes: usize,
    /// While so many batches are being ordered, the primary lets further ones fill up: requests wait only
    /// where there are many. Default: 4.
    pub pipeline_depth: usize,
    /// After how many batches the state is made a checkpoint. Half of the window, so that ordering goes on
    /// while replicas agree on it. Default: 128.
    pub checkpoint_interval: u64,
    /// How long a replica waits for a request that it knows of to be executed before it wants another
    /// primary. It doubles with every view that brings nothing. Default: 2 s.
    pub request_timeout: Duration,
    /// How long a request that a replica knows of waits for a sequence number before the replica wants another
    /// primary, unless batches are full. It doubles as `request_timeout` does. Default: 1 s.
    pub order_timeout: Duration,
    /// How much a primary orders while requests wait all the time, in percent of what the best of those before it
    /// did, lest others want another one. 0 asks nothing of it. Default: 50.
    pub throughput_floor: u32,
    /// The longest that they double to. Default: 1 min.
    pub request_timeout_max: Duration,
    /// How often a replica tells the others how far it is, so that they send again what it lacks.
    /// Default: 250 ms.
    pub status_interval: Duration,
    /// The longest encoded command, in bytes. Default: 128 KiB.
    pub command_len_max: usize,
    /// Requests of one client that may wait. Default: 64.
    pub max_pending_per_client: usize,
    /// Bytes of requests that may wait. Default: 64 MiB.
    pub max_pending_bytes: usize,
    /// The most client sessions there are; the one not used for longest makes room for another.
    /// Default: 1024.
    pub max_clients: u32,
    /// The longest snapshot of the state, in bytes. Default: 1 GiB.
    pub snapshot_len_max: u64,
    /// Bytes of a snapshot in one message, and under one digest. Default: 256 KiB.
    pub snapshot_chunk_bytes: usize,
    /// Breaks one rule on purpose.
    #[cfg(feature = "planted")]
    pub plant: Option<super::Plant>,
}

impl Default for PbftConfig {
    fn default() -> Self {
        Self {
            auth: AuthMode::Signatures,
            client_signatures: true,
            batch_max_requests: 512,
            batch_max_bytes: 256 << 10,
            pipeline_depth: 4,
            checkpoint_interval: 128,
            request_timeout: Duration::from_secs(2),
            order_timeout: Duration::from_secs(1),
            throughput_floor: 50,
            request_timeout_max: Duration::from_secs(60),
            status_interval: Duration::from_millis(250),
            command_len_max: 128 << 10,
            max_pending_per_client: 64,
            max_pending_bytes: 64 << 20,
            max_clients: 1024,
            snapshot_len_max: 1 << 30,
            snapshot_chunk_bytes: 256 << 10,
            #[cfg(feature = "planted")]
            plant: None,
        }
    }
}

impl PbftConfig {
    /// How many sequence numbers may be in use beyond the stable checkpoint: twice the interval of checkpoints.
    pub const fn window(&self) -> u64 {
        self.checkpoint_interval.saturating_mul(2)
    }

    /// Checks that the values can work together.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that says what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let no = |text: String| Err(ConfigError(text));
        let zeros = [
            ("batch_max_requests", self.batch_max_requests == 0),
            ("batch_max_bytes", self.batch_max_bytes == 0),
            ("pipeline_depth", self.pipeline_depth == 0),
            ("checkpoint_interval", self.checkpoint_interval == 0),
            ("request_timeout", self.request_timeout.is_zero()),
            ("status_interval", self.status_interval.is_zero()),
            ("command_len_max", self.command_len_max == 0),
            ("max_pending_per_client", self.max_pending_per_client == 0),
            ("max_pending_bytes", self.max_pending_bytes == 0),
            ("max_clients", self.max_clients == 0),
            ("snapshot_len_max", self.snapshot_len_max == 0),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes == 0),
        ];
        if let Some((name, _)) = zeros.iter().find(|(_, zero)| *zero) {
            return no(format!("{name} is 0: it must be more"));
        }
        if self.window() > WINDOW_MAX {
            let most = WINDOW_MAX / 2;
            return no(format!("checkpoint_interval is {}: {most} is the most there may be", self.checkpoint_interval));
        }
        if self.request_timeout <= self.status_interval {
            return no(format!(
                "request_timeout is {:?} and status_interval {:?}: what was lost must be sent again in time, raise the first",
                self.request_timeout, self.status_interval,
            ));
        }
        if self.order_timeout <= self.status_interval || self.order_timeout > self.request_timeout {
            return no(format!(
                "order_timeout is {:?}: it must be more than status_interval and at most request_timeout",
                self.order_timeout,
            ));
        }
        if self.throughput_floor > 100 {
            return no(format!("throughput_floor is {}: 100 percent is the most there may be", self.throughput_floor));
        }
        if self.request_timeout_max < self.request_timeout || self.request_timeout_max > Duration::from_secs(24 * 3600)
        {
            return no(format!(
                "request_timeout_max is {:?}: it must be at least request_timeout and at most a day",
                self.request_timeout_max,
            ));
        }
        if self.max_clients > SESSIONS_MAX {
            return no(format!("max_clients is {}: {SESSIONS_MAX} is the most there may be", self.max_clients));
        }
        let limit = FRAME_LEN_MAX - MESSAGE_OVERHEAD;
        let in_frame = [
            ("batch_max_bytes", self.batch_max_bytes),
            ("command_len_max", self.command_len_max),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes),
        ];
        if let Some((name, len)) = in_frame.iter().find(|(_, len)| *len > limit) {
            return no(format!("{name} makes messages of {len} bytes, but a frame has room for {limit}: lower it"));
        }
        Ok(())
    }
}

impl PbftConfig {
    /// Checks that a group of so many replicas, of which a quorum must agree, can change its view: a new view
    /// carries a quorum of view changes, and each of these may tell of [`CLAIMS_MAX`] batches and one more for each
    /// sequence number of the window.
    pub(super) fn validate_for(&self, replicas: usize, quorum: usize) -> Result<(), ConfigError> {
        const CLAIM: usize = 8 + 32 + 8;
        const SIGNED: usize = 2 + 64;
        let window = usize::try_from(self.window()).unwrap_or(usize::MAX);
        let claims = window.saturating_mul((CLAIMS_MAX + 1) * CLAIM);
        let len = quorum.saturating_mul(claims.saturating_add(256 + replicas * SIGNED));
        let limit = FRAME_LEN_MAX - MESSAGE_OVERHEAD;
        if len > limit {
            return Err(ConfigError(format!(
                "a new view of {replicas} replicas may take {len} bytes, but a frame has room for {limit}: lower \
                 checkpoint_interval, which is {}",
                self.checkpoint_interval,
            )));
        }
        Ok(())
    }
}

/// Why a configuration cannot work: a sentence that says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(PbftConfig::default().validate(), Ok(()));
    }

    #[test]
    fn the_largest_new_view_fits_into_a_frame() {
        let config = PbftConfig::default();
        assert!([(4, 3), (7, 5), (31, 21)].iter().all(|(n, quorum)| config.validate_for(*n, *quorum).is_ok()));
        let refused = config.validate_for(64, 43).unwrap_err().to_string();
        assert!(refused.contains("lower checkpoint_interval, which is 128"), "{refused}");
        assert!(PbftConfig { checkpoint_interval: 64, ..config }.validate_for(64, 43).is_ok());
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_value_and_the_bound() {
        let refused = |change: fn(&mut PbftConfig)| {
            let mut config = PbftConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.checkpoint_interval = 0).contains("checkpoint_interval is 0"));
        assert!(refused(|c| c.checkpoint_interval = u64::MAX).contains("2048 is the most"));
        assert!(refused(|c| c.request_timeout = Duration::from_millis(10)).contains("in time"));
        assert!(refused(|c| c.order_timeout = Duration::from_millis(10)).contains("more than status_interval"));
        assert!(refused(|c| c.order_timeout = Duration::from_secs(3)).contains("at most request_timeout"));
        assert!(refused(|c| c.throughput_floor = 101).contains("100 percent"));
        assert!(refused(|c| c.request_timeout_max = Duration::from_secs(1)).contains("at least request_timeout"));
        assert!(refused(|c| c.request_timeout_max = Duration::MAX).contains("at most a day"));
        assert!(refused(|c| c.max_clients = u32::MAX).contains("65536 is the most"));
        assert!(refused(|c| c.batch_max_bytes = usize::MAX).contains("batch_max_bytes makes messages"));
    }
}
