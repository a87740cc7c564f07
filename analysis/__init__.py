"""The science of corpora and of trained parameters: tables and arrays in, tables and arrays out."""

from analysis import deprecation

deprecation.install()
