//! The state that all replicas have: accounts, and payments between them that their owners signed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use mesh_core::identity::{PublicKey, SecretKey, Signature};
use mesh_core::{LogIndex, NodeId, RestoreError, SnapshotSource, StateMachine, Wire, wire, wire_message, wire_struct};
use mesh_examples::hex::short_digest;

/// An order to pay, by the owner of an account. An account is named by the id of its owner's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payment {
    payer: PublicKey,
    payee: NodeId,
    cents: u64,
    /// Which payment of the payer it is, from 0: it is made once, and in its turn.
    number: u64,
    signature: Signature,
}

wire_struct!(Payment { payer, payee, cents, number, signature });

impl Payment {
    /// A payment that the payer signs.
    pub(crate) fn signed(payer: &SecretKey, payee: NodeId, cents: u64, number: u64) -> Self {
        let signature = payer.sign(&Self::signed_bytes(payee, cents, number));
        Self { payer: payer.public(), payee, cents, number, signature }
    }

    fn signed_bytes(payee: NodeId, cents: u64, number: u64) -> Vec<u8> {
        let mut bytes = b"mesh example ledger payment".to_vec();
        payee.encode(&mut bytes);
        cents.encode(&mut bytes);
        number.encode(&mut bytes);
        bytes
    }

    /// Whether it makes sense and the payer signed it. Replicas order nothing else.
    pub(crate) fn is_valid(&self) -> bool {
        let bytes = Self::signed_bytes(self.payee, self.cents, self.number);
        self.cents > 0 && self.payer.node_id() != self.payee && self.payer.verify(&bytes, &self.signature).is_ok()
    }

    /// The same order, to pay somebody else. Nobody signed that.
    pub(crate) const fn diverted(self, payee: NodeId) -> Self {
        Self { payee, ..self }
    }
}

/// What came of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Paid,
    NotEnough,
    NoSuchAccount,
    /// Another payment of this payer is due, of this number.
    OutOfTurn(u64),
}

wire_message!(Outcome: version 1 { 0 => Paid, 1 => NotEnough, 2 => NoSuchAccount, 3 => OutOfTurn(due) });

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    cents: u64,
    /// The number of the next payment from it.
    due: u64,
}

wire_struct!(Account { cents, due });

/// What every account holds, in cents.
pub(crate) type Balances = BTreeMap<NodeId, u64>;

/// All accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books(BTreeMap<NodeId, Account>);

impl Books {
    /// Accounts that nothing was paid from yet.
    pub(crate) fn open(balances: &Balances) -> Self {
        Self(balances.iter().map(|(id, cents)| (*id, Account { cents: *cents, due: 0 })).collect())
    }

    /// Reads what every account holds at first.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let wrong = |line: &str| io::Error::other(format!("{}: {line:?} is no account", path.display()));
        let account = |line: &str| {
            let (id, cents) = line.split_once(' ').ok_or_else(|| wrong(line))?;
            Ok((id.parse().map_err(|_| wrong(line))?, cents.parse().map_err(|_| wrong(line))?))
        };
        let balances: io::Result<Balances> = fs::read_to_string(path)?.lines().map(account).collect();
        Ok(Self::open(&balances?))
    }

    /// Writes what every account holds.
    pub(crate) fn write(balances: &Balances, path: &Path) -> io::Result<()> {
        let lines: String = balances.iter().map(|(id, cents)| format!("{id} {cents}\n")).collect();
        fs::write(path, lines)
    }

    fn pay(&mut self, payment: &Payment) -> Outcome {
        let payer = payment.payer.node_id();
        if !self.0.contains_key(&payment.payee) {
            return Outcome::NoSuchAccount;
        }
        let Some(account) = self.0.get_mut(&payer) else { return Outcome::NoSuchAccount };
        if account.due != payment.number {
            return Outcome::OutOfTurn(account.due);
        }
        account.due += 1;
        let Some(left) = account.cents.checked_sub(payment.cents) else { return Outcome::NotEnough };
        account.cents = left;
        if let Some(payee) = self.0.get_mut(&payment.payee) {
            // The sum of all accounts is less than this can hold.
            payee.cents += payment.cents;
        }
        Outcome::Paid
    }
}

impl StateMachine for Books {
    type Command = Payment;
    type Output = Outcome;
    type Query = ();
    type Answer = Balances;

    fn apply(&mut self, _index: LogIndex, payment: Payment) -> Outcome {
        self.pay(&payment)
    }

    fn query(&self, (): ()) -> Balances {
        self.0.iter().map(|(id, account)| (*id, account.cents)).collect()
    }

    fn snapshot(&self) -> SnapshotSource {
        wire::to_bytes(&self.0).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = wire::from_slice(snapshot)?;
        Ok(())
    }
}

/// A digest of balances, to compare them by.
pub(crate) fn digest(balances: &Balances) -> String {
    short_digest(blake3::hash(&wire::to_bytes(balances)))
}

/// Cents, for people.
pub(crate) struct Money(pub(crate) u64);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}
