//! [`named!`]: enums whose variants have names that people read and scripts hold on to, each written once.

/// Makes an enum of variants without content, with all of them in `ALL`, in order, and `name` for what each is called
/// outside. Attributes of the enum and of `name` are as written.
macro_rules! named {
    (
        $(#[$attribute:meta])+
        $visible:vis enum $Enum:ident;
        $(#[$of_name:meta])+
        name;
        $($(#[doc = $doc:literal])+ $Variant:ident = $name:literal,)+
    ) => {
        $(#[$attribute])+
        $visible enum $Enum {
            $($(#[doc = $doc])+ $Variant,)+
        }

        impl $Enum {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$Enum] = &[$($Enum::$Variant,)+];

            $(#[$of_name])+
            pub const fn name(self) -> &'static str {
                match self {
                    $($Enum::$Variant => $name,)+
                }
            }
        }
    };
}

pub(crate) use named;
