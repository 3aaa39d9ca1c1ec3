"""Tables and reports, drawn from what is stored: nothing here runs a network or imports one."""
