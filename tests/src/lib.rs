//! Integration tests: real namespaces, real programs, through the podplane lab command.
