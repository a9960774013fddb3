//! The two macros that every view is made of.

/// Declares a view type over any bytes.
macro_rules! view {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<T>(T);

        impl<T: AsRef<[u8]>> $name<T> {
            /// Gives the bytes back.
            #[inline]
            pub fn into_inner(self) -> T {
                self.0
            }

            #[inline(always)]
            fn b(&self) -> &[u8] {
                self.0.as_ref()
            }
        }
    };
}

/// Declares getter and setter of fixed fields: `name / set_name: kind @ offset`. Kinds: u8, u16, u32, mac, ip4, ip6.
macro_rules! fields {
    ($name:ident { $($(#[$doc:meta])* $get:ident / $set:ident : $kind:ident @ $at:expr;)* }) => {
        impl<T: AsRef<[u8]>> $name<T> {
            $($(#[$doc])*
            #[inline]
            pub fn $get(&self) -> fields!(@type $kind) {
                fields!(@get $kind, self.b(), $at)
            })*
        }

        impl<T: AsRef<[u8]> + AsMut<[u8]>> $name<T> {
            $(#[doc = concat!("Writes what [`", stringify!($get), "`](Self::", stringify!($get), ") reads.")]
            #[inline]
            pub fn $set(&mut self, value: fields!(@type $kind)) {
                let b = self.0.as_mut();
                fields!(@set $kind, b, $at, value);
            })*
        }
    };
    (@type u8) => { u8 };
    (@type u16) => { u16 };
    (@type u32) => { u32 };
    (@type mac) => { $crate::id::Mac };
    (@type ip4) => { core::net::Ipv4Addr };
    (@type ip6) => { core::net::Ipv6Addr };
    (@get u8, $b:expr, $at:expr) => { $b[$at] };
    (@get u16, $b:expr, $at:expr) => { $crate::wire::be16($b, $at) };
    (@get u32, $b:expr, $at:expr) => { $crate::wire::be32($b, $at) };
    (@get mac, $b:expr, $at:expr) => { $crate::id::Mac($crate::wire::array($b, $at)) };
    (@get ip4, $b:expr, $at:expr) => { core::net::Ipv4Addr::from($crate::wire::array::<4>($b, $at)) };
    (@get ip6, $b:expr, $at:expr) => { core::net::Ipv6Addr::from($crate::wire::array::<16>($b, $at)) };
    (@set u8, $b:expr, $at:expr, $v:expr) => { $b[$at] = $v };
    (@set u16, $b:expr, $at:expr, $v:expr) => { $b[$at..$at + 2].copy_from_slice(&$v.to_be_bytes()) };
    (@set u32, $b:expr, $at:expr, $v:expr) => { $b[$at..$at + 4].copy_from_slice(&$v.to_be_bytes()) };
    (@set mac, $b:expr, $at:expr, $v:expr) => { $b[$at..$at + 6].copy_from_slice(&$v.0) };
    (@set ip4, $b:expr, $at:expr, $v:expr) => { $b[$at..$at + 4].copy_from_slice(&$v.octets()) };
    (@set ip6, $b:expr, $at:expr, $v:expr) => { $b[$at..$at + 16].copy_from_slice(&$v.octets()) };
}
