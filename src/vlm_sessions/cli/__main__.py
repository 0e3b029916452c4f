from vlm_sessions.cli.app import main

main()
