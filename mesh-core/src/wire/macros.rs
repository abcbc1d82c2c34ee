//! [`Wire`](crate::Wire) for structs and enums, field by field.

/// Implements [`Wire`](crate::Wire) for structs: their fields in the order in which they are named. Those of a tuple
/// are numbers.
///
/// ```
/// use mesh_core::{wire, wire_struct};
///
/// #[derive(Debug, PartialEq)]
/// struct Account(u64);
///
/// wire_struct!(Account { 0 });
///
/// #[derive(Debug, PartialEq)]
/// struct Deposit { account: Account, cents: i64 }
///
/// wire_struct!(Deposit { account, cents });
///
/// assert_eq!(&wire::to_bytes(&Deposit { account: Account(7), cents: -1 })[..], [7, 1]);
/// ```
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($field:tt),* $(,)? }) => {
        impl $crate::Wire for $name {
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                $($crate::Wire::encode(&self.$field, out);)*
            }

            fn decode(reader: &mut $crate::Reader<'_>) -> ::std::result::Result<Self, $crate::DecodeError> {
                ::std::result::Result::Ok(Self { $($field: $crate::Wire::decode(reader)?),* })
            }
        }
    };
}

/// Implements [`Wire`](crate::Wire) for messages: the version of their format, the number of the variant, and its fields
/// in the order in which they are named.
///
/// A later version may add variants, which are refused one by one, and fields at the end, which are skipped:
/// so nodes of two versions can talk. Where earlier versions than the newest are understood, `oldest` says
/// which; a `check` may refuse a decoded value.
///
/// ```
/// use mesh_core::{wire, wire_message};
///
/// #[derive(Debug, PartialEq)]
/// enum Message {
///     Ask { number: u64 },
///     Tell(u64, String),
///     Bye,
/// }
///
/// wire_message!(Message: version 1 { 0 => Ask { number }, 1 => Tell(number, name), 2 => Bye });
///
/// let ask = Message::Ask { number: 7 };
/// assert_eq!(&wire::to_bytes(&ask)[..], [1, 0, 7]);
/// assert_eq!(wire::from_slice(&[2, 0, 7, 42]), Ok(ask));
/// ```
#[macro_export]
macro_rules! wire_message {
    (
        $name:ident: version $version:tt, oldest $oldest:tt $(, check $check:path)?
        { $($variants:tt)* }
    ) => {
        $crate::wire_variants!($name, $version, $oldest..=u8::MAX, ($($check)?) { $($variants)* });
    };
    ($name:ident: version $version:tt $(, check $check:path)? { $($variants:tt)* }) => {
        $crate::wire_variants!($name, $version, $version..=u8::MAX, ($($check)?) { $($variants)* });
    };
}

/// Implements [`Wire`](crate::Wire) for records of a log: as [`wire_message!`](crate::wire_message), but of this very
/// version. What a later one has written must not be read as if nothing was missing.
///
/// ```
/// use mesh_core::{wire, wire_record};
///
/// #[derive(Debug, PartialEq)]
/// enum Record {
///     Term(u64),
/// }
///
/// wire_record!(Record: version 1 { 0 => Term(term) });
///
/// assert_eq!(&wire::to_bytes(&Record::Term(7))[..], [1, 0, 7]);
/// assert!(wire::from_slice::<Record>(&[2, 0, 7]).is_err());
/// ```
#[macro_export]
macro_rules! wire_record {
    ($name:ident: version $version:tt { $($variants:tt)* }) => {
        $crate::wire_variants!($name, $version, $version..=$version, () { $($variants)* });
    };
}

/// Implements [`Wire`](crate::Wire) for enums that are parts of messages: the number of the variant, and its fields in
/// the order in which they are named. The version is that of the message.
///
/// ```
/// use mesh_core::{wire, wire_enum};
///
/// #[derive(Debug, PartialEq)]
/// enum Shape {
///     Point,
///     Circle(u64),
///     Box { width: u64, height: u64 },
/// }
///
/// wire_enum!(Shape { 0 => Point, 1 => Circle(radius), 2 => Box { width, height } });
///
/// let shape = Shape::Box { width: 3, height: 4 };
/// assert_eq!(&wire::to_bytes(&shape)[..], [2, 3, 4]);
/// assert_eq!(wire::from_slice(&[2, 3, 4]), Ok(shape));
/// ```
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($kind:tt => $variant:ident $(($($field:ident),+))? $({ $($named:ident),+ })?),+ $(,)? }) => {
        impl $crate::Wire for $name {
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                match self {
                    $(Self::$variant $(($($field),+))? $({ $($named),+ })? => {
                        out.push($kind);
                        $($($crate::Wire::encode($field, out);)+)?
                        $($($crate::Wire::encode($named, out);)+)?
                    })+
                }
            }

            fn decode(reader: &mut $crate::Reader<'_>) -> ::std::result::Result<Self, $crate::DecodeError> {
                match <u8 as $crate::Wire>::decode(reader)? {
                    $($kind => {
                        $($(let $field = $crate::Wire::decode(reader)?;)+)?
                        $($(let $named = $crate::Wire::decode(reader)?;)+)?
                        ::std::result::Result::Ok(Self::$variant $(($($field),+))? $({ $($named),+ })?)
                    })+
                    kind => ::std::result::Result::Err($crate::DecodeError::UnknownVariant {
                        type_name: stringify!($name),
                        variant: u64::from(kind),
                    }),
                }
            }
        }
    };
}

/// What [`wire_message!`](crate::wire_message) and [`wire_record!`](crate::wire_record) have in common.
#[doc(hidden)]
#[macro_export]
macro_rules! wire_variants {
    (
        $name:ident, $version:tt, $understood:expr, ($($check:path)?)
        { $($kind:tt => $variant:ident $(($($field:ident),+))? $({ $($named:ident),+ })?),+ $(,)? }
    ) => {
        impl $crate::Wire for $name {
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                match self {
                    $(Self::$variant $(($($field),+))? $({ $($named),+ })? => {
                        out.extend_from_slice(&[$version, $kind]);
                        $($($crate::Wire::encode($field, out);)+)?
                        $($($crate::Wire::encode($named, out);)+)?
                    })+
                }
            }

            fn decode(reader: &mut $crate::Reader<'_>) -> ::std::result::Result<Self, $crate::DecodeError> {
                let [version, kind]: [u8; 2] = [$crate::Wire::decode(reader)?, $crate::Wire::decode(reader)?];
                if !($understood).contains(&version) {
                    return ::std::result::Result::Err($crate::DecodeError::Version { type_name: stringify!($name), version });
                }
                let value = match kind {
                    $($kind => {
                        $($(let $field = $crate::Wire::decode(reader)?;)+)?
                        $($(let $named = $crate::Wire::decode(reader)?;)+)?
                        Self::$variant $(($($field),+))? $({ $($named),+ })?
                    })+
                    kind => return ::std::result::Result::Err($crate::DecodeError::UnknownVariant {
                        type_name: stringify!($name),
                        variant: u64::from(kind),
                    }),
                };
                if version > $version {
                    reader.skip_rest();
                }
                $($check(&value)?;)?
                ::std::result::Result::Ok(value)
            }
        }
    };
}
