"""Reports: run and study folders -> one page that opens anywhere, tables and figures."""
