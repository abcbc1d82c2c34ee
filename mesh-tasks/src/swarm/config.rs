//! How a swarm is, the same for all its agents but for what each is.

use std::time::Duration;

use mesh_core::Bytes;
use mesh_core::identity::PublicKey;
use mesh_gossip::heartbeat::HeartbeatConfig;
use mesh_gossip::membership::MembershipConfig;
use mesh_gossip::partition::PartitionConfig;

use crate::capability::Capabilities;
use crate::pool::PoolConfig;
use crate::task::Policy;

/// How work is spread over a swarm: the policy of its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Idle agents steal: [`Policy::Steal`].
    #[default]
    Distributed,
    /// Agents with much to do give some of it away: [`Policy::Balance`].
    Balanced,
    /// The agent that fits best has it: [`Policy::Capability`].
    Specialized,
    /// Agents bid: [`Policy::Auction`].
    Auction,
    /// The ring names the agent: [`Policy::Dht`].
    Hashed,
}

impl Strategy {
    /// The policy that it is.
    pub const fn policy(self) -> Policy {
        match self {
            Self::Distributed => Policy::Steal,
            Self::Balanced => Policy::Balance,
            Self::Specialized => Policy::Capability,
            Self::Auction => Policy::Auction,
            Self::Hashed => Policy::Dht,
        }
    }
}

/// How quick the network is that an agent is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// One data centre: heartbeats each 3 s, gossip each few seconds.
    #[default]
    Lan,
    /// Several places: slower probes.
    Wan,
    /// One machine: all about eight times as fast as in a data centre.
    Local,
}

/// So much faster is all on one machine.
const LOCAL: u32 = 8;

impl Preset {
    pub(super) const fn membership(self) -> MembershipConfig {
        match self {
            Self::Lan => MembershipConfig::lan(),
            Self::Wan => MembershipConfig::wan(),
            Self::Local => MembershipConfig::local(),
        }
    }

    pub(super) fn heartbeat(self) -> HeartbeatConfig {
        HeartbeatConfig::faster(self.factor())
    }

    pub(super) fn partition(self) -> PartitionConfig {
        PartitionConfig::default().faster(self.factor())
    }

    pub(super) fn scaled(self, time: Duration) -> Duration {
        time / self.factor()
    }

    const fn factor(self) -> u32 {
        match self {
            Self::Lan | Self::Wan => 1,
            Self::Local => LOCAL,
        }
    }
}

/// How an agent takes part in a swarm.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// How many agents there may be, this one included; more are not taken in. Default: 12.
    pub max_agents: usize,
    /// How work is spread. Default: [`Strategy::Distributed`].
    pub strategy: Strategy,
    /// How quick the network is. Default: [`Preset::Lan`].
    pub preset: Preset,
    /// Where this agent is: copies are kept in different zones. Default: 0.
    pub zone: u16,
    /// How the transport reaches it. Default: empty, where the transport knows by itself.
    pub address: Bytes,
    /// The time of day, since 1970, at which the node's clock began: with a [`SystemClock`](mesh_core::SystemClock), that
    /// of its start. What is written into the shared memory is stamped by it, and is not taken by an agent whose time is
    /// 10 s behind. Default: 0, which is right only where all start at once and never again, as in a simulation.
    pub clock_origin: Duration,
    /// Of the agents there are at first, so many must know each other before any may go on: more than half of them,
    /// and of the [voters](Self::voters). Default: 2, which is right for three at first: with four, two pairs that have not
    /// met could each go on. See [`PartitionConfig::founders`].
    pub founders: usize,
    /// The keys of all that vote on proposals, the same for all agents. Default: none, and there are no ballots.
    pub voters: Vec<PublicKey>,
    /// What this agent can do. Default: nothing in particular.
    pub capabilities: Capabilities,
    /// How tasks are kept. Its [policy](PoolConfig::policy) is that of the [strategy](Self::strategy).
    pub pool: PoolConfig,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            max_agents: 12,
            strategy: Strategy::default(),
            preset: Preset::default(),
            zone: 0,
            address: Bytes::new(),
            clock_origin: Duration::ZERO,
            founders: 2,
            voters: Vec::new(),
            capabilities: Capabilities::default(),
            pool: PoolConfig::default(),
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SwarmConfigError(String);

impl SwarmConfig {
    /// Checks that it can work. What modules have to say of their parts they say when they are hosted.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), SwarmConfigError> {
        let (most, founders, voters) = (self.max_agents, self.founders, self.voters.len());
        if most == 0 {
            return Err(SwarmConfigError("max_agents is 0: this agent is one".to_owned()));
        }
        if founders > most {
            return Err(SwarmConfigError(format!("founders is {founders}, but max_agents only {most}")));
        }
        if voters > most {
            return Err(SwarmConfigError(format!("there are {voters} voters, but max_agents is only {most}")));
        }
        if founders * 2 <= voters {
            let why = format!("founders is {founders}, which is not more than half of the {voters} voters");
            return Err(SwarmConfigError(format!("{why}: two sides that have not met could both go on")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SecretKey;

    use super::*;

    #[test]
    fn the_default_is_that_of_the_seed_design_and_each_rule_is_checked() {
        let config = SwarmConfig::default();
        assert_eq!((config.max_agents, config.strategy.policy()), (12, Policy::Steal));
        assert_eq!(config.validate(), Ok(()));
        let refused = |config: SwarmConfig| config.validate().unwrap_err().to_string();
        assert!(refused(SwarmConfig { max_agents: 0, ..config.clone() }).contains("max_agents is 0"));
        assert!(refused(SwarmConfig { founders: 13, ..config.clone() }).contains("founders is 13"));
        let voters: Vec<_> = (0..13).map(|n| SecretKey::from_seed([n; 32]).public()).collect();
        let three = SwarmConfig { voters: voters[..3].to_vec(), ..config.clone() };
        assert_eq!(three.validate(), Ok(()));
        assert!(refused(SwarmConfig { voters: voters[..4].to_vec(), ..three }).contains("half of the 4 voters"));
        assert!(refused(SwarmConfig { voters, ..config }).contains("there are 13 voters"));
    }
}
