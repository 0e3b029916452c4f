from vlm_sessions.cli import main

main()
