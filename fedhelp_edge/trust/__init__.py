"""Who may send what, and when: rules without files, sockets or clocks. Time and what was seen before are handed in."""
